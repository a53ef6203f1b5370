"""The storage block of the output."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

from prefect.filesystems import LocalFileSystem

from prefect_wavespeed.blocks.names import BUCKET_OUTPUT, DIRECTORY_OUTPUT, OUTPUT_BLOCK
from prefect_wavespeed.deployments.saved_blocks import load_if_saved
from prefect_wavespeed.deployments.setup.report import report
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.output_name import check_output_name


def output_block(out: str) -> str:
    """Return the name by which flows know the block for ``s3://bucket/prefix`` or a directory.

    Raises:
        ConfigurationError: ``out`` is neither, or prefect-aws is not installed.
    """
    if out.startswith("s3://"):
        if not out.removeprefix("s3://").partition("/")[0]:
            raise ConfigurationError(f"--out {out}: the bucket's name is missing: give s3://bucket/prefix")
        check_output_name(out, "--out")
        if find_spec("prefect_aws") is None:
            raise ConfigurationError(
                f"--out {out}: buckets need prefect-aws: pip install 'prefect-wavespeed[aws]'"
            )
        return BUCKET_OUTPUT
    check_output_name(out, "--out")
    return DIRECTORY_OUTPUT


async def set_up_output(out: str | None) -> None:
    """Save the block for ``s3://bucket/prefix`` or a directory."""
    if out is None:
        report("skipped", "output block", "give one with --out")
    elif out.startswith("s3://"):
        await _set_up_bucket(out)
    else:
        await _set_up_directory(out)


async def _set_up_bucket(out: str) -> None:
    from prefect_aws import AwsCredentials
    from prefect_aws.s3 import S3Bucket

    bucket, _, folder = out.removeprefix("s3://").partition("/")
    folder = folder.strip("/")
    await AwsCredentials.register_type_and_schema()
    await S3Bucket.register_type_and_schema()
    saved = await load_if_saved(S3Bucket, OUTPUT_BLOCK)
    if saved and (saved.bucket_name, saved.bucket_folder.strip("/")) == (bucket, folder):
        report("found", BUCKET_OUTPUT, f"for {out}, unchanged")
        return
    if saved:
        saved.bucket_name, saved.bucket_folder = bucket, folder
        await saved.save(OUTPUT_BLOCK, overwrite=True)
        report("updated", BUCKET_OUTPUT, f"for {out}, credentials unchanged")
        return
    credentials = await load_if_saved(AwsCredentials, OUTPUT_BLOCK)
    if credentials:
        report("found", f"aws-credentials/{OUTPUT_BLOCK}", "unchanged")
    else:
        await _create_credentials()
        credentials = await AwsCredentials.aload(OUTPUT_BLOCK)
    await S3Bucket(bucket_name=bucket, bucket_folder=folder, credentials=credentials).save(OUTPUT_BLOCK)
    report("created", BUCKET_OUTPUT, f"for {out}")


async def _create_credentials() -> None:
    from prefect_aws import AwsClientParameters, AwsCredentials

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    parameters = AwsClientParameters(endpoint_url=endpoint)
    await AwsCredentials(region_name=region, aws_client_parameters=parameters).save(OUTPUT_BLOCK)
    report(
        "created", f"aws-credentials/{OUTPUT_BLOCK}", "without keys: each machine uses its own AWS identity"
    )


async def _set_up_directory(out: str) -> None:
    path = await asyncio.to_thread(lambda: str(Path(out).expanduser().absolute()))
    await LocalFileSystem.register_type_and_schema()
    saved = await load_if_saved(LocalFileSystem, OUTPUT_BLOCK)
    if saved and saved.basepath == path:
        report("found", DIRECTORY_OUTPUT, f"for {path}, unchanged")
        return
    await LocalFileSystem(basepath=path).save(OUTPUT_BLOCK, overwrite=True)
    report("updated" if saved else "created", DIRECTORY_OUTPUT, f"for {path}")
