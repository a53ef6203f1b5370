"""Where outputs go: a saved storage block, a bucket's prefix or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.filesystems import LocalFileSystem

from prefect_wavespeed.blocks.loading import load_block
from prefect_wavespeed.blocks.names import LOCAL_BLOCK_PREFIX, is_block
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.open_store import directory_store, open_store, s3_store
from prefect_wavespeed.storage.store import Store

_IF_MISSING = "save it with `restyle setup --out …`, or name another output"


async def open_output(output: str) -> Store:
    """The store that an output names.

    Args:
        output: ``s3-bucket/NAME`` or ``local-file-system/NAME`` (saved blocks), ``s3://bucket/prefix``,
            or a directory.

    Raises:
        BlockNotFoundError: no such block is saved.
        ConfigurationError: the block cannot be used, or the output is none of these.
    """
    if not is_block(output):
        return open_store(output)
    name = output.partition("/")[2]
    if output.startswith(LOCAL_BLOCK_PREFIX):
        folder = await load_block(LocalFileSystem, name, if_missing=_IF_MISSING)
        return directory_store(Path(folder.basepath or "."))
    try:
        from prefect_aws.s3 import S3Bucket
    except ImportError:
        raise ConfigurationError(
            f"output {output}: needs prefect-aws: pip install 'prefect-wavespeed[aws]'"
        ) from None
    bucket = await load_block(S3Bucket, name, if_missing=_IF_MISSING)
    client: dict[str, Any] = bucket.credentials.aws_client_parameters.get_params_override()
    return s3_store(
        bucket.bucket_name,
        bucket.bucket_folder,
        bucket.credentials.get_boto3_session(),
        endpoint_url=client.get("endpoint_url"),
        verify=client.get("verify", True) is not False,
    )
