"""URLs without what must not be shown."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from prefect_wavespeed.words import printable

# Query parameters by which stores sign a URL or let its bearer in: they change, the object stays the same.
_SIGNATURE_PARAMETERS = re.compile(
    r"(?i)x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|ossaccesskeyid|signature|key-pair-id|policy"
    r"|x-(oss|tos|obs|cos|bce)-.*|q-(sign-algorithm|ak|sign-time|key-time|header-list|url-param-list|signature)"
    r"|accesskeyid|authorization|security-token|(access_|auth_?)?token|sig"
)
# Parameters with common names, which belong to a signature only beside the one that holds it.
_BESIDE_SIGNATURE = {
    "signature": frozenset({"expires"}),  # S3 version 2, CloudFront, OSS
    "sig": frozenset(
        [
            "sv",
            "ss",
            "srt",
            "sp",
            "st",
            "se",
            "spr",
            "sr",
            "sip",
            "skoid",
            "sktid",
            "skt",
            "ske",
            "sks",
            "skv",
        ]
    ),  # Azure
}


# Parameters that say which form of a picture is meant. Any other may be what lets its bearer in.
_HARMLESS = re.compile(
    r"(?i)w|h|width|height|size|fit|crop|dpr|format|fm|output|quality|auto|v|ver|version|rev|page|frame|lang"
)
_HARMLESS_VALUE = re.compile(r"[\w.,:*-]{0,32}")
_DIGEST = "query-sha256"
_DIGEST_VALUE = re.compile(r"[0-9a-f]{16}")


def without_signature(url: str) -> str:
    """A URL as it may be kept and shown: without signature, credentials, fragment and unknown parameters.

    Parameters that are not known to be harmless are replaced by a digest of them all. Two signed URLs of one
    object are the same without their signatures, and others differ, which makes this an identity.

    Raises:
        ValueError: it is not a URL.
    """
    return unsigned(urlsplit(url))


def unsigned(parts: SplitResult) -> str:
    """``without_signature`` of a URL that is split already."""
    host = parts.netloc.rpartition("@")[2].lower()
    return urlunsplit((parts.scheme, host, parts.path, _shown_query(parts.query) if parts.query else "", ""))


def _shown_query(text: str) -> str:
    query = parse_qsl(text, keep_blank_values=True)
    names = {name.lower() for name, _ in query}
    dropped = frozenset[str]().union(*(also for holder, also in _BESIDE_SIGNATURE.items() if holder in names))
    kept = [
        (name, value)
        for name, value in query
        if not _SIGNATURE_PARAMETERS.fullmatch(name) and name.lower() not in dropped
    ]
    shown = [(name, value) for name, value in kept if _is_harmless(name, value)]
    if hidden := [pair for pair in kept if pair not in shown]:
        shown.append((_DIGEST, hashlib.sha256(urlencode(hidden).encode()).hexdigest()[:16]))
    return urlencode(shown)


def is_shortened(query: str) -> bool:
    """Whether parameters of a URL with this query were replaced by a digest, so that it leads nowhere."""
    return any(name == _DIGEST for name, _ in parse_qsl(query))


def _is_harmless(name: str, value: str) -> bool:
    if name == _DIGEST:
        return _DIGEST_VALUE.fullmatch(value) is not None
    return _HARMLESS.fullmatch(name) is not None and _HARMLESS_VALUE.fullmatch(value) is not None


def image_name(image: str) -> str:
    """An image's file name, for the names of runs. Of a URL, only the path: a query may be a signature."""
    path = unquote(urlsplit(image).path) if "://" in image else image
    return printable(PurePosixPath(path).name) or "image"


# "s3:/bucket/a", "s3:bucket", "s3//bucket", "https;//host", "gs:/bucket": no URL, and hardly a path
_MISTYPED = re.compile(
    r"(?:(?P<any>[a-z][a-z0-9+.-]+):(?!//[^/])[/\\]+"
    r"|(?P<known>s3|https?)(?:[:;](?!//)|;//|(?=//))[/\\]*)(?P<rest>[^/\\].*)",
    re.IGNORECASE | re.DOTALL,
)


def mistyped_url(text: str) -> str | None:
    """The URL that was probably meant by a text that is none; None where it may be a path."""
    found = _MISTYPED.fullmatch(text)
    return f"{(found['any'] or found['known']).lower()}://{found['rest']}" if found else None


_FILE_URL = re.compile(r"file:[/\\]+(?:localhost/+)?(.*)", re.IGNORECASE | re.DOTALL)


def path_of_file_url(text: str) -> str | None:
    """The path that a ``file:`` URL means, as reports name sources; None where it is none."""
    found = _FILE_URL.fullmatch(text)
    return f"/{readable(found[1])}" if found else None


def readable(uri: str) -> str:
    """A uri as people write it: with the names that are percent-encoded in it; for eyes only."""
    if uri.lower().startswith("s3://"):  # its key is as it is
        return uri
    try:
        text = unquote(uri, errors="strict")
    except UnicodeDecodeError:
        return uri
    return text if text.isprintable() else uri
