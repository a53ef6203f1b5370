"""Where outputs go: a saved storage block, a bucket's prefix or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from prefect.blocks.core import Block
from prefect.filesystems import LocalFileSystem

from prefect_wavespeed.blocks.loading import load_block
from prefect_wavespeed.blocks.names import LOCAL_BLOCK_PREFIX, is_block
from prefect_wavespeed.blocks.parameters import shown
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.open_store import directory_store, open_store, s3_store
from prefect_wavespeed.storage.output_name import check_output_name
from prefect_wavespeed.storage.store import Store

_IF_MISSING = "save it with `restyle setup --out …`, or name another output"


async def open_output(output: Block | str) -> Store:
    """The store where outputs go.

    Args:
        output: a storage block (prefect-aws's S3Bucket, or LocalFileSystem); ``s3-bucket/NAME`` or
            ``local-file-system/NAME`` for one that is saved; ``s3://bucket/prefix``; or a directory.

    Raises:
        BlockNotFoundError: no such block is saved.
        ConfigurationError: the block cannot be used, or the output is none of these.
    """
    if isinstance(output, str):
        check_output_name(output)
        if not is_block(output):
            return open_store(output)
    block = await _load(output) if isinstance(output, str) else output
    if isinstance(block, LocalFileSystem):
        return directory_store(Path(block.basepath or "."))
    if not isinstance(block, _s3_bucket(shown(output))):
        raise ConfigurationError(
            f"output {shown(output)}: outputs go to a block of type s3-bucket or local-file-system, not "
            f"{block.get_block_type_slug()}"
        )
    bucket = cast("Any", block)
    client: dict[str, Any] = bucket.credentials.aws_client_parameters.get_params_override()
    return s3_store(
        bucket.bucket_name,
        bucket.bucket_folder,
        bucket.credentials.get_boto3_session(),
        endpoint_url=client.get("endpoint_url"),
        verify=client.get("verify", True) is not False,
    )


async def _load(output: str) -> Block:
    is_directory = output.startswith(LOCAL_BLOCK_PREFIX)
    block_type = LocalFileSystem if is_directory else _s3_bucket(output)
    return await load_block(block_type, output.partition("/")[2], if_missing=_IF_MISSING)


def _s3_bucket(output: str) -> type[Block]:
    try:
        from prefect_aws.s3 import S3Bucket
    except ImportError:
        raise ConfigurationError(
            f"output {output}: needs prefect-aws: pip install 'prefect-wavespeed[aws]'"
        ) from None
    bucket: type[Block] = S3Bucket
    return bucket
