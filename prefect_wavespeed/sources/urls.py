"""Sources on the web: an https URL, which WaveSpeedAI fetches itself."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from prefect_wavespeed.api.urls import is_loopback
from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.job import Source
from prefect_wavespeed.urls import is_shortened, unsigned

_NEVER_IN_A_HOST = re.compile(r"""[\s<>"{}|^`\\%]""")


def url_source(image: str) -> Source:
    """The picture that a URL means, identified by the URL without its signature; nothing is fetched.

    Raises:
        SourceError: it is not a URL that WaveSpeedAI could fetch.
    """
    try:
        parts = urlsplit(image)
        shown, host, port = unsigned(parts), parts.hostname, parts.port
    except ValueError as error:
        raise SourceError(f"invalid URL: image {redact(image)}: {redact(error)}") from None
    if parts.scheme not in ("https", "http"):
        raise SourceError(
            f"unsupported scheme {parts.scheme}://: image {shown}: use https://, s3:// or a file path"
        )
    if not host or port == 0:
        raise SourceError(f"no host in the URL: image {shown}")
    if _NEVER_IN_A_HOST.search(host):
        raise SourceError(f"{redact(host)} is no host: image {redact(shown)}")
    if "@" in parts.netloc and (parts.username or parts.password):
        raise SourceError(
            f"password in the URL: image {shown}: WaveSpeedAI would see it: use a signed URL instead"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise SourceError(f"unencrypted URL: image {shown}: WaveSpeedAI fetches from https:// only")
    if parts.query and is_shortened(parts.query):
        raise SourceError(f"shortened for display: image {shown}: use the URL as it was first given")
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or host
    return Source(uri=shown, identity=shown, name=name, location=image)
