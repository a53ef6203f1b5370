"""`restyle setup`: what the flows need, saved as Prefect blocks. Safe to repeat."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from deployments._prefect import quieten

quieten()

from prefect.blocks.core import Block  # noqa: E402
from prefect.blocks.system import Secret  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.actions import (  # noqa: E402
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.filesystems import LocalFileSystem  # noqa: E402
from pydantic import SecretStr  # noqa: E402

from blocks.wavespeed import BASE_URL, WaveSpeed  # noqa: E402
from restyle.errors import ConfigurationError  # noqa: E402

SECRET = "wavespeed-api-key"  # noqa: S105
WAVESPEED = "default"
OUTPUT = "restyle-output"

LIMIT = "wavespeed-in-flight"

Tier = Literal["bronze", "silver", "gold", "ultra"]

# Submissions a minute and predictions in flight by account level. WaveSpeedAI's pages differ and change:
# presets, to be changed in the block and the limit.
TIERS: dict[Tier, tuple[int, int]] = {
    "bronze": (10, 3),
    "silver": (500, 100),
    "gold": (3_000, 3_000),
    "ultra": (5_000, 10_000),
}

_B = TypeVar("_B", bound=Block)


def run(out: str | None, tier: Tier | None) -> int:
    """Save the blocks and the limit, and print what was found, made and left alone.

    Args:
        tier: the account's level; None leaves the limits as they are.
        out: where outputs go: s3://bucket/prefix or a directory; None leaves that open.

    Raises:
        ConfigurationError: there is no API key, or ``out`` is neither.
    """
    asyncio.run(_set_up(out, tier))
    return 0


async def _set_up(out: str | None, tier: Tier | None) -> None:
    await WaveSpeed.register_type_and_schema()
    secret = await _secret()
    if tier:
        await _limit(tier)
    await _wavespeed(secret, tier)
    if out is None:
        _say("skipped", "output block", "name one with --out")
    elif out.startswith("s3://"):
        await _bucket(out)
    elif "://" in out:
        raise ConfigurationError(f"--out {out}: name s3://bucket/prefix or a directory")
    else:
        await _directory(out)


async def _secret() -> Secret:  # type: ignore[type-arg]
    key = os.environ.get("WAVESPEED_API_KEY", "").strip()
    there = await _load(Secret, SECRET)
    if not key:
        if there is None:
            raise ConfigurationError(
                "no WaveSpeedAI API key: set WAVESPEED_API_KEY and run `restyle setup` again"
            )
        _say("found", f"secret/{SECRET}", "left alone: WAVESPEED_API_KEY is not set")
        return there
    if there and there.value.get_secret_value() == key:
        _say("found", f"secret/{SECRET}", "holds this key, left alone")
        return there
    await Secret(value=SecretStr(key)).save(SECRET, overwrite=True)
    _say("updated" if there else "made", f"secret/{SECRET}", "from WAVESPEED_API_KEY")
    return await Secret.aload(SECRET)


async def _limit(tier: Tier) -> None:
    _, in_flight = TIERS[tier]
    name = f"global-concurrency-limit/{LIMIT}"
    async with get_client() as client:
        try:
            there = await client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            await client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=LIMIT, limit=in_flight)
            )
            _say("made", name, f"{in_flight:,} predictions in flight for all runs together")
            return
        if there.limit == in_flight:
            _say("found", name, f"{in_flight:,} in flight, left alone")
            return
        await client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(limit=in_flight))
        _say("updated", name, f"{in_flight:,} in flight, was {there.limit:,}")


async def _wavespeed(secret: Secret, tier: Tier | None) -> None:  # type: ignore[type-arg]
    there = await _load(WaveSpeed, WAVESPEED)
    wanted = there or WaveSpeed(api_key=secret, base_url=BASE_URL)
    changes: dict[str, Any] = {"base_url": os.environ.get("WAVESPEED_BASE_URL") or wanted.base_url}
    if tier:
        per_minute, in_flight = TIERS[tier]
        changes |= {
            "requests_per_minute": per_minute,
            "max_in_flight": in_flight,
            "concurrency_limit": LIMIT,
        }
    block = wanted.model_copy(update=changes)
    await block.get_client().aclose()  # refuses a URL that is no safe place for the key
    about = f"for {block.base_url}"
    if block.requests_per_minute and block.max_in_flight:
        about += f", {block.requests_per_minute:,} a minute, {block.max_in_flight:,} in flight"
    if there and all(getattr(there, name) == value for name, value in changes.items()):
        _say("found", f"wavespeed/{WAVESPEED}", f"{about}, left alone")
        return
    await block.save(WAVESPEED, overwrite=True)
    _say("updated" if there else "made", f"wavespeed/{WAVESPEED}", f"{about}, key in secret/{SECRET}")


async def _bucket(out: str) -> None:
    try:
        from prefect_aws import AwsClientParameters, AwsCredentials
        from prefect_aws.s3 import S3Bucket
    except ImportError:
        raise ConfigurationError(
            f"--out {out}: needs prefect-aws: pip install 'wavespeed-restyle-flows[aws]'"
        ) from None
    name, _, folder = out.removeprefix("s3://").partition("/")
    folder = folder.strip("/")
    if not name:
        raise ConfigurationError(f"--out {out}: the bucket's name is missing: s3://bucket/prefix")
    await AwsCredentials.register_type_and_schema()
    await S3Bucket.register_type_and_schema()
    there = await _load(S3Bucket, OUTPUT)
    if there and (there.bucket_name, there.bucket_folder.strip("/")) == (name, folder):
        _say("found", f"s3-bucket/{OUTPUT}", f"for {out}, left alone")
        return
    if there:
        there.bucket_name, there.bucket_folder = name, folder
        await there.save(OUTPUT, overwrite=True)
        _say("updated", f"s3-bucket/{OUTPUT}", f"for {out}, credentials left alone")
        return
    credentials = await _load(AwsCredentials, OUTPUT)
    if credentials:
        _say("found", f"aws-credentials/{OUTPUT}", "left alone")
    else:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        await AwsCredentials(
            region_name=region, aws_client_parameters=AwsClientParameters(endpoint_url=endpoint)
        ).save(OUTPUT)
        credentials = await AwsCredentials.aload(OUTPUT)
        _say("made", f"aws-credentials/{OUTPUT}", "no keys in it: each machine goes by its own AWS identity")
    await S3Bucket(bucket_name=name, bucket_folder=folder, credentials=credentials).save(OUTPUT)
    _say("made", f"s3-bucket/{OUTPUT}", f"for {out}")


async def _directory(out: str) -> None:
    path = await asyncio.to_thread(lambda: str(Path(out).expanduser().absolute()))
    await LocalFileSystem.register_type_and_schema()
    there = await _load(LocalFileSystem, OUTPUT)
    if there and there.basepath == path:
        _say("found", f"local-file-system/{OUTPUT}", f"for {path}, left alone")
        return
    await LocalFileSystem(basepath=path).save(OUTPUT, overwrite=True)
    _say("updated" if there else "made", f"local-file-system/{OUTPUT}", f"for {path}")


async def _load(block: type[_B], name: str) -> _B | None:
    try:
        return await block.aload(name)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise


def _say(what: str, block: str, more: str) -> None:
    print(f"{what:8} {block}: {more}")
