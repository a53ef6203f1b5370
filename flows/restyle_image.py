"""The flow that restyles one image."""

# No `from __future__ import annotations` in files of flows: Prefect 3.8 cannot resolve annotations that are
# strings ("not fully defined") when a deployment loads the file by its path, and every run would fail.

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_wavespeed.api.models import FormParams, ReduxParams
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.flows._dispatch import dispatched_flow
from prefect_wavespeed.flows._interrupted import report_interrupted_job
from prefect_wavespeed.flows._retries import retry_only
from prefect_wavespeed.flows._task_steps import restyle_job
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, Restyled, UncheckedPolicy
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.tasks import open_runtime
from prefect_wavespeed.urls import image_name

_DEFAULT = ReduxParams()


def _run_name() -> str:
    return f"restyle {image_name(str(flow_run.parameters.get('image', '')))}"


@dispatched_flow
@flow(
    flow_run_name=_run_name,
    retries=2,
    retry_delay_seconds=30,
    persist_result=False,
    on_cancellation=[report_interrupted_job],
    on_crashed=[report_interrupted_job],
)
async def restyle_image(
    image: Annotated[str, Field(min_length=1, examples=["https://example.com/photo.jpg"])],
    params: FormParams = _DEFAULT,
    variant: Annotated[int, Field(ge=0)] = 0,
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
    max_cost_usd: Annotated[float, Field(gt=0)] | None = None,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
    retry_failed: bool = False,
) -> Restyled:
    """Restyle an image with FLUX.1 Redux [dev], store the pictures and their side-car, and bill it once.

    The same image, parameters and variant are the same job. Run it again, and it returns what is stored, at
    no cost; interrupt it, and the next run continues where it was.

    Args:
        image: The source picture: an https URL, s3://bucket/key, or a path on the machine that runs this.
        params: How to restyle it.
        variant: 0, 1, 2 and so on: each makes another picture of the same source, with its own seed.
        wavespeed: The WaveSpeed block that holds the API key, or the name of a saved one.
        output: Where the pictures go: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.
        max_cost_usd: Highest price in USD; if it is higher, nothing is submitted. None for no limit.
        nsfw: What to do with pictures that WaveSpeedAI flags as unsafe for work: keep them (flagged in the
            side-car), put them under quarantine/, or drop them (only the side-car mentions them).
        nsfw_unchecked: What to do with pictures of which WaveSpeedAI does not say whether they are safe: put
            them under quarantine/, or keep them. If nsfw is keep, they are kept.
        retry_failed: Submit the job again if it has failed for good before. That may be billed.

    Returns:
        What is stored, where, and what it cost.

    Raises:
        RestyleError: one of `prefect_wavespeed.errors`. Errors that retrying cannot fix end the run at once,
            even if it has retries left.
    """
    async with retry_only(), open_runtime(wavespeed, output) as runtime:
        job = await make_job(image, params, variant, runtime.store)
        return await restyle_job(
            job,
            runtime,
            wavespeed,
            output,
            max_cost_usd=max_cost_usd,
            nsfw=NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked),
            retry_failed=retry_failed,
        )


arestyle_image = restyle_image.aio
"""`restyle_image` for async code: always a coroutine."""
