"""The task that finds out what is to be done about an object that was created."""

from __future__ import annotations

from prefect import task

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch import created_object as objects
from prefect_wavespeed.batch.created_object import Found, MetadataParam, ObjectCreated, give_up
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.tasks._events import failed_event
from prefect_wavespeed.tasks._runtime import TASK_OPTIONS, opened, run_info


@task(task_run_name="find {created.key}", **TASK_OPTIONS)
async def find(
    created: ObjectCreated,
    watched: str,
    params: ReduxParams,
    metadata_params: tuple[MetadataParam, ...] = (),
    wavespeed: str = WAVESPEED_BLOCK,
    output: str = DEFAULT_OUTPUT,
) -> Found:
    """Find out what is to be done about an object, and write the dead letter of one that cannot be restyled.

    Args:
        created: the event.
        watched: ``s3://bucket/prefix`` whose objects are to be restyled.
        params: how to restyle them.
        metadata_params: parameters that the object's own metadata may give.
        wavespeed: name of the `WaveSpeed` block.
        output: where the outputs go, and the ledger is.

    Returns:
        The job, or why there is nothing to do.

    Raises:
        PredictionFailedError: the object cannot be restyled, for good; its dead letter is written.
    """
    async with opened(wavespeed, output) as runtime:
        found = await objects.find(created, watched, params, metadata_params, runtime.store)
        if found.job and found.refused:
            with failed_event(found.job, runtime.store.uri):
                if error := await give_up(found.job, found.refused, runtime.store, run_info()):
                    raise error
        return found
