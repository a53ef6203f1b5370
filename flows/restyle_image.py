"""The flow that restyles one image."""

# No `from __future__ import annotations` here: a deployment loads this file by its path, and Prefect 3.8
# then cannot resolve annotations that are text ("not fully defined"), so every run of it would fail.

from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import unquote, urlsplit

from prefect import flow, runtime
from pydantic import Field

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.flows._hooks import leave_the_truth
from prefect_wavespeed.flows._one import restyle_one
from prefect_wavespeed.flows._retries import retried_where_it_helps
from prefect_wavespeed.job import NsfwPolicy, Restyled
from prefect_wavespeed.steps.step_set import make_job
from prefect_wavespeed.tasks._runtime import opened

_DEFAULT = ReduxParams()


def _run_name() -> str:
    # of a URL the path alone: its query may be a signature
    image = str(runtime.flow_run.parameters.get("image", ""))
    path = unquote(urlsplit(image).path) if "://" in image else image
    return f"restyle {PurePosixPath(path).name or 'image'}"


@flow(
    flow_run_name=_run_name,
    retries=2,
    retry_delay_seconds=30,
    persist_result=False,
    on_cancellation=[leave_the_truth],
    on_crashed=[leave_the_truth],
)
async def restyle_image(
    image: Annotated[str, Field(min_length=1, examples=["https://example.com/photo.jpg"])],
    params: ReduxParams = _DEFAULT,
    variant: Annotated[int, Field(ge=0)] = 0,
    wavespeed: str = WAVESPEED_BLOCK,
    output: str = DEFAULT_OUTPUT,
    max_cost_usd: Annotated[float, Field(gt=0)] | None = None,
    nsfw: NsfwPolicy = "keep",
    retry_failed: bool = False,
) -> Restyled:
    """Restyle an image with FLUX.1 Redux [dev], store the pictures and their record, and bill it once.

    The same image, parameters and variant are the same job: run it again and what is stored comes back
    at no cost; interrupt it and the next run takes it up where it was.

    Args:
        image: The source picture: an https URL, s3://bucket/key, or a path on the machine that runs this.
        params: How to restyle it.
        variant: Another picture of the same source: 0, 1, 2 and so on. Each has its own seed.
        wavespeed: Name of the WaveSpeed block that holds the API key.
        output: Where the pictures go: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.
        max_cost_usd: Refuse before anything is sent when the price is higher, in USD. None for no limit.
        nsfw: What to do with pictures that WaveSpeedAI flags as unsafe for work: keep them (flagged in the
            record), put them under quarantine/, or drop them (recorded, not stored).
        retry_failed: Go again where this job has failed for good earlier. That may be billed.

    Returns:
        What is stored, where, and what it cost.

    Raises:
        RestyleError: one of `prefect_wavespeed.errors`. Those that trying again cannot mend end the run at
            once, whatever retries it has left.
    """
    async with retried_where_it_helps(), opened(wavespeed, output) as used:
        job = await make_job(image, params, variant, used.store)
        return await restyle_one(
            job,
            used,
            wavespeed,
            output,
            max_cost_usd=max_cost_usd,
            nsfw=nsfw,
            retry_failed=retry_failed,
        )
