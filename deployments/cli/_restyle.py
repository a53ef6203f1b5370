"""What `restyle image` and `restyle batch` take. What they do is in files that take longer to import."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli._flags import FLAG_NAMES, INLINE, NO_FLAG, SWITCH, with_flags
from prefect_wavespeed.job import NsfwPolicy


@with_flags(
    **{field: Parameter(name=flag) for field, flag in FLAG_NAMES.items()},
    enable_base64_output=NO_FLAG,
    enable_sync_mode=NO_FLAG,
)
class _OnePicture(ReduxParams):
    """How to restyle an image."""


@with_flags(seed=NO_FLAG)
class _EachPicture(_OnePicture):
    """How to restyle the images of a batch; in a manifest, each of them may have a seed."""


@with_flags(params=INLINE, retry_failed=SWITCH)
class _Batch(BatchOptions):
    """The options of a batch."""

    params: _EachPicture = _EachPicture()


_ONE_PICTURE, _BATCH = _OnePicture(), _Batch()


def image(
    source: str,
    /,
    *,
    out: str,
    params: Annotated[_OnePicture, INLINE] = _ONE_PICTURE,
    variant: int = 0,
    max_cost_usd: float | None = None,
    nsfw: NsfwPolicy = "keep",
    retry_failed: Annotated[bool, SWITCH] = False,
    wavespeed: str = WAVESPEED_BLOCK,
    json: Annotated[bool, SWITCH] = False,
) -> int:
    """Restyle one image. Run again, the same command returns what is stored and bills nothing.

    Args:
        source: https URL, s3://bucket/key, or the path of a picture.
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks).
        params: How to restyle it.
        variant: Another picture of the same source: 0, 1, 2 and so on.
        max_cost_usd: Refuse when the price is higher, in USD.
        nsfw: What to do with pictures that are flagged as unsafe for work.
        retry_failed: Go again where the job has failed for good earlier.
        wavespeed: WaveSpeed block with the API key. Without a block "default", WAVESPEED_API_KEY serves.
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import image as command

    options = command.Options(
        source=source,
        out=out,
        variant=variant,
        max_cost_usd=max_cost_usd,
        nsfw=nsfw,
        retry_failed=retry_failed,
        wavespeed=wavespeed,
        params=ReduxParams(**params.model_dump()),
    )
    return command.run(options, as_json=json)


def batch(
    manifest: str,
    /,
    *,
    out: str,
    options: Annotated[_Batch, INLINE] = _BATCH,
    dry_run: Annotated[bool, SWITCH] = False,
    wavespeed: str = WAVESPEED_BLOCK,
    json: Annotated[bool, SWITCH] = False,
) -> int:
    """Restyle all images of a manifest, each billed once; the account of every row lies under runs/.

    Run again, the same command goes on where it was, whatever ended it.

    Args:
        manifest: JSONL, CSV or Parquet (a path, s3://bucket/key or an https URL) with a column image and,
            optionally, id, variant and any parameter; or s3://bucket/prefix/ for every image below it, except
            those that this project stored there.
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks).
        options: How to restyle them, what it may cost, and when the batch counts as failed.
        dry_run: Report what is done already, what would be billed and what it would cost. Spends nothing.
        wavespeed: WaveSpeed block with the API key. Without a block "default", WAVESPEED_API_KEY serves.
        json: Print one JSON object on stdout.
    """
    from prefect_wavespeed.deployments.cli import batch as command

    asked = command.Command(manifest, out, wavespeed, BatchOptions(**options.model_dump()))
    return command.run(asked, dry_run=dry_run, as_json=json)
