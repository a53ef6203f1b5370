"""Errors of obstore, boto3 and the system as ours: the reason in a long chain, and whether it may pass."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import NamedTuple

from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError

from prefect_wavespeed.errors import (
    BucketNotFoundError,
    ConfigurationError,
    StoreDeniedError,
    StoreError,
    UnsafeStoreError,
    redact,
)
from prefect_wavespeed.trust import NOT_TRUSTED

SAFE_STORES = "use AWS S3, Ceph, MinIO, R2 or a directory"

OTHER_REGION = "name its region (AWS_DEFAULT_REGION, or in the block)"

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REQUEST = re.compile(r"Error performing \w+ (https?://)(?:[^/\s@]*@)?([^/\s?]+)")
_NO_CREDENTIALS = re.compile(r"External AWS credential provider: (.*)")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([\w.]+)</Code>")


class _Reason(NamedTuple):
    """What a server's code or the system's words mean, what to do, and the error to raise."""

    sign: str  # a pattern
    reason: str
    advice: str
    kind: type[StoreError | ConfigurationError]


_DENIED = _Reason("AccessDenied", "access denied", "allow it to these credentials", StoreDeniedError)
_REASONS = (
    _Reason("NoSuchBucket", "bucket does not exist", "create it or correct its name", BucketNotFoundError),
    _Reason("InvalidAccessKeyId", "unknown access key", "check the credentials", ConfigurationError),
    _Reason("SignatureDoesNotMatch", "wrong secret access key", "check the credentials", ConfigurationError),
    _Reason(r"<Code>(Expired|Invalid)Token", "credentials have expired", "renew them", ConfigurationError),
    _Reason(
        "RequestTimeTooSkewed",
        "this machine's clock is wrong",
        "set it, and keep it right by NTP",
        StoreError,
    ),
    _Reason(
        "redirect without LOCATION|AuthorizationHeaderMalformed",
        "the bucket is in another region",
        OTHER_REGION,
        ConfigurationError,
    ),
    _Reason(
        "InvalidCertificate|CERTIFICATE_VERIFY_FAILED|SSL validation failed",
        "certificate of {server} is not trusted",
        NOT_TRUSTED,
        ConfigurationError,
    ),
    _DENIED,
    _Reason(
        r"\(os error (1|38|95)\)",
        "no hard links here, which create-if-absent needs",
        "use another file system, or S3",
        ConfigurationError,
    ),
    _Reason("Permission denied", "permission denied", "allow it to this user", StoreDeniedError),
    _Reason("dns error", "unknown host {server}", "", StoreError),
    _Reason("Connection refused", "connection refused by {server}", "", StoreError),
    _Reason("No space left", "no space left", "", StoreError),
    _Reason(
        r"kind: Timeout|source: TimedOut|timed out|(Read|Connect) timeout",
        "no answer in time from {server}",
        "",
        StoreError,
    ),
    _Reason(
        "IncompleteMessage|ConnectionReset|Connection reset|Broken pipe|connection was closed",
        "connection broken off by {server}",
        "",
        StoreError,
    ),
    _Reason(
        r"\bParse\(|following redirect",
        "{server} does not answer as S3 does",
        "check the endpoint",
        StoreError,
    ),
    _Reason(
        "Invalid (content length|last modified)|Header missing",
        "{server} does not answer as S3 does",
        "check the endpoint",
        ConfigurationError,
    ),
)
_WRAPPING = re.compile(r"^Generic \w+ error: | in [\d.]+[mµn]?s(, after .*?)?(?= +- )")


@contextmanager
def translated(verb: str, uri: str) -> Iterator[None]:
    """Raise our errors for what goes wrong in a block.

    Args:
        verb: what is being done: ``read``, ``write``, …
        uri: to what.
    """
    try:
        yield
    except (NotSupportedError, NotImplementedError) as error:
        raise UnsafeStoreError(f"conditional put refused: {uri}: {SAFE_STORES} ({redact(error)})") from None
    except Exception as error:
        if not (isinstance(error, BaseError | OSError) or _is_of_boto3(error)):
            raise
        raise translate(error, f"cannot {verb} {uri}") from None


def translate(error: Exception, action: str) -> StoreError | ConfigurationError:
    """Our error for one of obstore's, boto3's or the system's.

    Args:
        error: what was raised.
        action: what failed, for the message: ``cannot read s3://bucket/key``.
    """
    text = str(error)
    if refused := _NO_CREDENTIALS.search(text):
        return StoreError(f"the credentials cannot be renewed: {redact(refused[1])}: {action}")
    reason = next((known for known in _REASONS if re.search(known.sign, text)), None)
    if reason is None and isinstance(error, PermissionDeniedError | UnauthenticatedError):
        reason = _DENIED if "<Code>" not in text else None  # the answer to a HEAD has no code
    status, code = answered_with(error)
    if reason is None and status:
        kind = StoreDeniedError if status == HTTPStatus.FORBIDDEN else StoreError
        return kind(f"HTTP {status}{f' {code}' if code else ''} from {_server(text)}: {action}")
    if reason is None:
        return StoreError(f"{action}: {redact(_WRAPPING.sub('', text.split('Debug source:')[0]).strip())}")
    advice = f": {reason.advice}" if reason.advice else ""
    return reason.kind(f"{reason.reason.format(server=_server(text))}: {action}{advice}")


def bucket_is_missing(error: Exception) -> bool:
    """Whether a FileNotFoundError says that there is no such bucket, not only no such object."""
    return "NoSuchBucket" in str(error)


def is_conflict(error: BaseException) -> bool:
    """Whether S3 refused a request because of something else that happens at the moment (409)."""
    return isinstance(error, BaseError) and answered_with(error)[0] == HTTPStatus.CONFLICT


def answered_with(error: Exception) -> tuple[int | None, str]:
    """The HTTP status of which one of obstore's errors speaks, None without one, and S3's code, if told."""
    text = str(error)
    if "redirect without LOCATION" in text:
        return HTTPStatus.MOVED_PERMANENTLY, ""
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status[1]) if status else None, code[1] if code else ""


def _is_of_boto3(error: Exception) -> bool:
    """Whether boto3 raised an error; it is not imported for this."""
    return any(kind.__module__ == "botocore.exceptions" for kind in type(error).__mro__)


def _server(text: str) -> str:
    """The server of which an error speaks, and the variable that names it, where one does."""
    found = _REQUEST.search(text)
    if found is None:
        return "the server"
    scheme, host = found.groups()
    variable = next((f" ({name})" for name in _ENDPOINT_VARIABLES if host in os.environ.get(name, "")), "")
    return f"{scheme}{host}{variable}"
