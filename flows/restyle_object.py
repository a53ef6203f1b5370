"""The flow that restyles an object as soon as it is created."""

# No `from __future__ import annotations` here: see flows/restyle_image.py.

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_wavespeed.api.models import FormParams, ReduxParams
from prefect_wavespeed.batch.created_object import Handled, MetadataParam, ObjectCreated
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.errors import (
    RestyleError,
    RunLimitError,
    SourceDeniedError,
    SourceError,
    worth_retrying,
)
from prefect_wavespeed.flows._dispatch import dispatched_flow
from prefect_wavespeed.flows._interrupted import report_interrupted_job
from prefect_wavespeed.flows._retries import retry_only
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.flows._task_steps import restyle_job
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, UncheckedPolicy
from prefect_wavespeed.tasks import find, open_runtime
from prefect_wavespeed.words import printable

MAX_RUNS = 5
"""How often a run whose process died is started in all: its object may be what kills the process."""

_DEFAULT = ReduxParams()


def _run_name() -> str:
    created = flow_run.parameters.get("created")
    key = created.get("key") if isinstance(created, dict) else getattr(created, "key", None)
    return f"restyle {printable(key or 'object')}"


def _worth_retrying(error: RestyleError) -> bool:
    # A SourceError after the object was found means that it was overwritten or deleted since: look again.
    changed = isinstance(error, SourceError) and not isinstance(error, SourceDeniedError)
    return changed or worth_retrying(error)


@dispatched_flow
@flow(
    flow_run_name=_run_name,
    retries=2,
    retry_delay_seconds=30,
    persist_result=False,
    on_cancellation=[report_interrupted_job],
    on_crashed=[report_interrupted_job],
)
async def restyle_object(
    created: ObjectCreated,
    watched: Annotated[str, Field(min_length=1, examples=["s3://bucket/in/"])],
    params: FormParams = _DEFAULT,
    metadata_params: tuple[MetadataParam, ...] = (),
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
    max_cost_usd: Annotated[float, Field(gt=0)] | None = None,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
) -> Handled:
    """Restyle an object that was created under a watched prefix, in its current version, and bill it once.

    It makes the same job as restyle-image and restyle-batch would, so events that arrive twice, late or out
    of order change nothing. An object that is gone, too big or no image gets a dead letter, once.

    Args:
        created: The object, as its event describes it.
        watched: The prefix that the trigger watches, as s3://bucket/prefix. Other objects are ignored, and so
            are pictures that this package stored. It must not overlap the output.
        params: How to restyle it.
        metadata_params: Parameters that may be set by the object's own metadata instead, such as num_images
            by x-amz-meta-restyle-num-images.
        wavespeed: The WaveSpeed block that holds the API key, or the name of a saved one.
        output: Where the pictures go: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.
        max_cost_usd: Highest price in USD; if it is higher, nothing is submitted. None for no limit.
        nsfw: What to do with pictures that WaveSpeedAI flags as unsafe for work: keep them (flagged in the
            side-car), put them under quarantine/, or drop them (only the side-car mentions them).
        nsfw_unchecked: What to do with pictures of which WaveSpeedAI does not say whether they are safe: put
            them under quarantine/, or keep them. If nsfw is keep, they are kept.

    Returns:
        What is stored, or why the event was ignored.

    Raises:
        RestyleError: one of `prefect_wavespeed.errors`; PredictionFailedError if there is a dead letter.
            Errors that retrying cannot fix end the run at once, even if it has retries left.
    """
    async with retry_only(_worth_retrying), open_runtime(wavespeed, output) as runtime:
        if (run_count := flow_run.run_count or 1) > MAX_RUNS:
            raise RunLimitError(
                f"run {run_count} of at most {MAX_RUNS}: see in their logs what ended the others, then use "
                f"`restyle image {created.uri}`"
            )
        found = await find(created, watched, params, metadata_params, wavespeed, output)
        if found.job is None:
            run_log().info("ignored: %s", found.ignored)
            return Handled(ignored=found.ignored)
        rules = NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked)
        restyled = await restyle_job(
            found.job, runtime, wavespeed, output, max_cost_usd=max_cost_usd, nsfw=rules
        )
        return Handled(restyled=restyled)
