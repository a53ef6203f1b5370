"""The block that says where outputs go."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

from prefect.filesystems import LocalFileSystem

from prefect_wavespeed.blocks.names import BUCKET_OUTPUT, DIRECTORY_OUTPUT, OUTPUT_BLOCK
from prefect_wavespeed.deployments.setup._load import load
from prefect_wavespeed.deployments.setup._report import say
from prefect_wavespeed.errors import ConfigurationError


def output_block(out: str) -> str:
    """What flows call the block for ``s3://bucket/prefix`` or a directory.

    Raises:
        ConfigurationError: ``out`` is neither, or what saves a bucket's block is not installed.
    """
    if out.startswith("s3://"):
        if not out.removeprefix("s3://").partition("/")[0]:
            raise ConfigurationError(f"--out {out}: the bucket's name is missing: s3://bucket/prefix")
        if find_spec("prefect_aws") is None:
            raise ConfigurationError(f"--out {out}: needs prefect-aws: pip install 'prefect-wavespeed[aws]'")
        return BUCKET_OUTPUT
    if "://" in out:
        raise ConfigurationError(f"--out {out}: name s3://bucket/prefix or a directory")
    return DIRECTORY_OUTPUT


async def set_up_output(out: str | None) -> None:
    """Save the block for ``s3://bucket/prefix`` or a directory."""
    if out is None:
        say("skipped", "output block", "name one with --out")
    elif out.startswith("s3://"):
        await _bucket(out)
    else:
        await _directory(out)


async def _bucket(out: str) -> None:
    from prefect_aws import AwsClientParameters, AwsCredentials
    from prefect_aws.s3 import S3Bucket

    name, _, folder = out.removeprefix("s3://").partition("/")
    folder = folder.strip("/")
    await AwsCredentials.register_type_and_schema()
    await S3Bucket.register_type_and_schema()
    there = await load(S3Bucket, OUTPUT_BLOCK)
    if there and (there.bucket_name, there.bucket_folder.strip("/")) == (name, folder):
        say("found", BUCKET_OUTPUT, f"for {out}, left alone")
        return
    if there:
        there.bucket_name, there.bucket_folder = name, folder
        await there.save(OUTPUT_BLOCK, overwrite=True)
        say("updated", BUCKET_OUTPUT, f"for {out}, credentials left alone")
        return
    credentials = await load(AwsCredentials, OUTPUT_BLOCK)
    if credentials:
        say("found", f"aws-credentials/{OUTPUT_BLOCK}", "left alone")
    else:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        await AwsCredentials(
            region_name=region, aws_client_parameters=AwsClientParameters(endpoint_url=endpoint)
        ).save(OUTPUT_BLOCK)
        credentials = await AwsCredentials.aload(OUTPUT_BLOCK)
        say(
            "made",
            f"aws-credentials/{OUTPUT_BLOCK}",
            "no keys in it: each machine goes by its own AWS identity",
        )
    await S3Bucket(bucket_name=name, bucket_folder=folder, credentials=credentials).save(OUTPUT_BLOCK)
    say("made", BUCKET_OUTPUT, f"for {out}")


async def _directory(out: str) -> None:
    path = await asyncio.to_thread(lambda: str(Path(out).expanduser().absolute()))
    await LocalFileSystem.register_type_and_schema()
    there = await load(LocalFileSystem, OUTPUT_BLOCK)
    if there and there.basepath == path:
        say("found", DIRECTORY_OUTPUT, f"for {path}, left alone")
        return
    await LocalFileSystem(basepath=path).save(OUTPUT_BLOCK, overwrite=True)
    say("updated" if there else "made", DIRECTORY_OUTPUT, f"for {path}")
