"""The flow that restyles an object as soon as it is created."""

# No `from __future__ import annotations` here: see flows/restyle_image.py.

from typing import Annotated

from prefect import flow, get_run_logger, runtime
from pydantic import Field

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.created_object import Handled, MetadataParam, ObjectCreated
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.errors import RunLimitError, SourceError
from prefect_wavespeed.flows._hooks import leave_the_truth
from prefect_wavespeed.flows._one import restyle_one
from prefect_wavespeed.flows._retries import retried_where_it_helps
from prefect_wavespeed.job import NsfwPolicy
from prefect_wavespeed.tasks import find
from prefect_wavespeed.tasks._runtime import opened

MOST_RUNS = 5
"""A run whose process vanished is started again, so often at the most: its object may be what kills it."""

_DEFAULT = ReduxParams()


def _run_name() -> str:
    created = runtime.flow_run.parameters.get("created")
    key = created.get("key") if isinstance(created, dict) else getattr(created, "key", None)
    return f"restyle {key or 'object'}"


@flow(
    flow_run_name=_run_name,
    retries=2,
    retry_delay_seconds=30,
    persist_result=False,
    on_cancellation=[leave_the_truth],
    on_crashed=[leave_the_truth],
)
async def restyle_object(
    created: ObjectCreated,
    watched: Annotated[str, Field(min_length=1, examples=["s3://bucket/in/"])],
    params: ReduxParams = _DEFAULT,
    metadata_params: tuple[MetadataParam, ...] = (),
    wavespeed: str = WAVESPEED_BLOCK,
    output: str = DEFAULT_OUTPUT,
    max_cost_usd: Annotated[float, Field(gt=0)] | None = None,
    nsfw: NsfwPolicy = "keep",
) -> Handled:
    """Restyle an object that was created under a watched prefix: what lies there now, billed once.

    Delivered twice, late or out of options, an event changes nothing: it is the job that restyle-image and
    restyle-batch make of the same object. What is no image, too big or gone gets a dead letter, once.

    Args:
        created: The object, as the event tells it.
        watched: What the trigger watches, as s3://bucket/prefix. Anything else is ignored, and so is what
            bears our own metadata. An output that overlaps it is refused.
        params: How to restyle it.
        metadata_params: Parameters that the object's own metadata may give instead, such as num_images:
            x-amz-meta-restyle-num-images.
        wavespeed: Name of the WaveSpeed block that holds the API key.
        output: Where the pictures go: s3-bucket/NAME or local-file-system/NAME (saved blocks),
            s3://bucket/prefix, or a directory.
        max_cost_usd: Refuse before anything is sent when the price is higher, in USD. None for no limit.
        nsfw: What to do with pictures that WaveSpeedAI flags as unsafe for work: keep them (flagged in the
            record), put them under quarantine/, or drop them (recorded, not stored).

    Returns:
        What is stored, or why the event was ignored.

    Raises:
        RestyleError: one of `prefect_wavespeed.errors`: PredictionFailedError where there is a dead letter.
            Those that trying again cannot mend end the run at once, whatever retries it has left.
    """
    # a SourceError after the object was found: it has changed since, so look again
    async with retried_where_it_helps(SourceError), opened(wavespeed, output) as used:
        if (runs := runtime.flow_run.run_count or 1) > MOST_RUNS:
            raise RunLimitError(
                f"{created.uri}: this is run {runs} of {MOST_RUNS} at the most: look what ended the others, "
                "then restyle the object with `restyle image`"
            )
        found = await find(created, watched, params, metadata_params, wavespeed, output)
        if found.job is None:
            get_run_logger().info("ignored: %s", found.ignored)
            return Handled(ignored=found.ignored)
        restyled = await restyle_one(found.job, used, wavespeed, output, max_cost_usd=max_cost_usd, nsfw=nsfw)
        return Handled(restyled=restyled)
