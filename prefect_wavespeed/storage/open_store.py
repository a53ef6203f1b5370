"""Stores by name: a bucket's prefix or a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.directory import DirectoryBackend
from prefect_wavespeed.storage.output_name import (
    BUCKET_BLOCK_TYPE,
    DIRECTORY_BLOCK_TYPE,
    check_output_name,
)
from prefect_wavespeed.storage.s3_names import split_s3_uri
from prefect_wavespeed.storage.store import Store

if TYPE_CHECKING:  # a directory does not need boto3, which takes long to import
    import boto3

    from prefect_wavespeed.storage.s3 import S3Access


def open_store(output: str) -> Store:
    """A store by its name; ``blocks.output`` opens the ones that are saved in Prefect.

    Args:
        output: ``s3://bucket/prefix`` (by boto3's own credential chain) or a directory.

    Raises:
        ConfigurationError: the name is neither, or looks like a mistyped one; or no credentials are found.
    """
    check_output_name(output)
    if output.startswith((f"{BUCKET_BLOCK_TYPE}/", f"{DIRECTORY_BLOCK_TYPE}/")):
        raise ConfigurationError(
            f"output {output}: a block of Prefect: open it with prefect_wavespeed.blocks.output.open_output"
        )
    if "://" not in output:
        return directory_store(Path(output))
    from prefect_wavespeed.storage.s3 import environment_access

    return bucket_store(environment_access(), *split_s3_uri(output))


def s3_store(
    bucket: str, prefix: str, session: boto3.Session, *, endpoint_url: str | None = None, verify: bool = True
) -> Store:
    """A prefix of a bucket, by a boto3 session.

    Args:
        bucket: the bucket's name.
        prefix: slashes at its ends do not matter; empty for the whole bucket.
        session: region and credentials.
        endpoint_url: a server other than the session's configuration names.
        verify: False accepts a certificate that cannot be verified.

    Raises:
        ConfigurationError: no credentials, or an endpoint that is no URL.
    """
    from prefect_wavespeed.storage.s3 import S3Access

    return bucket_store(S3Access(session, endpoint_url=endpoint_url, verify=verify), bucket, prefix)


def bucket_store(access: S3Access, bucket: str, prefix: str = "") -> Store:
    """A prefix of a bucket, or all of it, on a server that is known already.

    Raises:
        ConfigurationError: no credentials, or a name that is not valid.
    """
    from prefect_wavespeed.storage.s3 import S3Backend

    prefix = prefix.strip("/")
    uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    return Store(S3Backend(access, bucket, prefix), uri, access)


def directory_store(path: Path) -> Store:
    """A directory, made if it is missing.

    Raises:
        ConfigurationError: it cannot be made, or is a file.
    """
    path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - without "..", and no link is followed
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{error.strerror}: output {path}: use a directory that can be written"
        ) from None
    return Store(DirectoryBackend(path, missing[-1] if missing else None), str(path))
