"""Errors of obstore, boto3 and the system, told as ours: the telling part, and whether it may pass."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError
from obstore.exceptions import BaseError, NotSupportedError

from prefect_wavespeed.errors import ConfigurationError, StoreError, UnsafeStoreError, redact

SAFE_STORES = "use AWS S3, Ceph, MinIO, R2 or a directory"

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REQUEST = re.compile(r"Error performing \w+ (https?://)(?:[^/\s@]*@)?([^/\s?]+)")

# What the server or the system says, what it means, and whether it may pass.
_SIGNS: tuple[tuple[str, str, type[StoreError | ConfigurationError]], ...] = (
    ("NoSuchBucket", "the bucket does not exist: create it or mend its name", ConfigurationError),
    ("InvalidAccessKeyId", "the server does not know this access key", ConfigurationError),
    ("SignatureDoesNotMatch", "the secret access key is wrong", ConfigurationError),
    ("AccessDenied", "access denied: these credentials may not do this", ConfigurationError),
    ("Permission denied", "permission denied", ConfigurationError),
    ("dns error", "the host name of {server} cannot be resolved", StoreError),
    ("Connection refused", "connection refused by {server}", StoreError),
    ("No space left", "no space left", StoreError),
)


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
        raise UnsafeStoreError(
            f"{uri}: this store refuses a conditional put ({redact(error)}): {SAFE_STORES}"
        ) from None
    except (BaseError, BotoCoreError, OSError) as error:
        raise translate(error, f"cannot {verb} {uri}") from None


def translate(error: Exception, action: str) -> StoreError | ConfigurationError:
    """Our error for one of obstore's, boto3's or the system's.

    Args:
        error: what was raised.
        action: what failed, for the message: ``cannot read s3://bucket/key``.
    """
    text = str(error)
    for sign, meaning, kind in _SIGNS:
        if sign in text:
            return kind(f"{action}: {meaning.format(server=_server(text))}")
    return StoreError(f"{action}: {redact(text.split('Debug source:')[0])}")


def _server(text: str) -> str:
    """The server of which an error speaks, and the variable that names it, where one does."""
    found = _REQUEST.search(text)
    if found is None:
        return "the server"
    scheme, host = found.groups()
    variable = next((f" ({name})" for name in _ENDPOINT_VARIABLES if host in os.environ.get(name, "")), "")
    return f"{scheme}{host}{variable}"
