"""Where outputs go: a saved storage block, a bucket's prefix or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import LocalFileSystem
from pydantic import ValidationError

from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.storage.open_store import (
    LOCAL_BLOCK_PREFIX,
    directory_store,
    is_block,
    open_store,
    s3_store,
)
from prefect_wavespeed.storage.store import Store

_B = TypeVar("_B", bound=Block)


async def open_output(output: str) -> Store:
    """The store that an output names.

    Args:
        output: ``s3-bucket/NAME`` or ``local-file-system/NAME`` (saved blocks), ``s3://bucket/prefix``,
            or a directory.

    Raises:
        ConfigurationError: there is no such block, it cannot be read, or the name is none of these.
    """
    if not is_block(output):
        return open_store(output)
    name = output.partition("/")[2]
    if output.startswith(LOCAL_BLOCK_PREFIX):
        folder = await _load(LocalFileSystem, output, name)
        return directory_store(Path(folder.basepath or "."))
    try:
        from prefect_aws.s3 import S3Bucket
    except ImportError:
        raise ConfigurationError(
            f"output {output}: needs prefect-aws: pip install 'prefect-wavespeed[aws]'"
        ) from None
    bucket = await _load(S3Bucket, output, name)
    client: dict[str, Any] = bucket.credentials.aws_client_parameters.get_params_override()
    return s3_store(
        bucket.bucket_name,
        bucket.bucket_folder,
        bucket.credentials.get_boto3_session(),
        endpoint_url=client.get("endpoint_url"),
        verify=client.get("verify", True) is not False,
    )


async def _load(block: type[_B], output: str, name: str) -> _B:
    try:
        return await block.aload(name)
    except ValidationError:
        raise ConfigurationError(f"output {output}: the block cannot be used: save it again") from None
    except (ValueError, RuntimeError) as error:
        if isinstance(error.__cause__, ObjectNotFound):
            raise ConfigurationError(
                f"output {output}: no such block is saved: make it with `restyle setup --out …`"
            ) from None
        raise ConfigurationError(f"output {output}: the block cannot be loaded: {redact(error)}") from None
