"""Sources on the web: an https URL, which WaveSpeedAI fetches itself."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from prefect_wavespeed.api.urls import is_loopback
from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.job import Source
from prefect_wavespeed.urls import is_shortened, without_signature

_NEVER_IN_A_HOST = '<>"{}|^`\\%'


def url_source(image: str) -> Source:
    """The picture that a URL means, identified by the URL without its signature; nothing is fetched.

    Raises:
        SourceError: it is not a URL that WaveSpeedAI could fetch.
    """
    try:
        shown, parts = without_signature(image), urlsplit(image)
        port = parts.port
    except ValueError as error:
        raise SourceError(f"invalid URL: image {redact(image)}: {redact(error)}") from None
    if parts.scheme.lower() not in ("https", "http"):
        raise SourceError(
            f"unsupported scheme {parts.scheme}://: image {shown}: use https://, s3:// or a file path"
        )
    if not parts.hostname or port == 0:
        raise SourceError(f"no host in the URL: image {shown}")
    if any(char.isspace() or char in _NEVER_IN_A_HOST for char in parts.hostname):
        raise SourceError(f"{redact(parts.hostname)} is no host: image {redact(shown)}")
    if parts.username or parts.password:
        raise SourceError(
            f"password in the URL: image {shown}: WaveSpeedAI would see it: use a signed URL instead"
        )
    if parts.scheme.lower() == "http" and not is_loopback(parts.hostname):
        raise SourceError(f"unencrypted URL: image {shown}: WaveSpeedAI fetches from https:// only")
    if is_shortened(image):
        raise SourceError(f"shortened for display: image {shown}: use the URL as it was first given")
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.hostname
    return Source(uri=shown, identity=shown, name=name, location=image)
