"""The task that finds the job of an object that was created."""

from __future__ import annotations

from prefect import task

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch import created_object as objects
from prefect_wavespeed.batch.created_object import Found, MetadataParam, ObjectCreated, give_up
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.tasks._options import TASK_OPTIONS
from prefect_wavespeed.tasks.context import run_info
from prefect_wavespeed.tasks.events import emit_failed
from prefect_wavespeed.tasks.runtime import open_runtime


@task(task_run_name="find {created.label}", **TASK_OPTIONS)
async def find(
    created: ObjectCreated,
    watched: str,
    params: ReduxParams,
    metadata_params: tuple[MetadataParam, ...] = (),
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
) -> Found:
    """Find the job of an object; if it cannot be restyled, write its dead letter.

    Args:
        created: the object, as its event describes it.
        watched: ``s3://bucket/prefix`` whose objects are to be restyled.
        params: how to restyle them.
        metadata_params: parameters that the object's own metadata may give.
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: where the outputs go, and the ledger is.

    Returns:
        The job, or why there is nothing to do.

    Raises:
        PredictionFailedError: the object cannot be restyled, for good; its dead letter is written.
    """
    async with open_runtime(wavespeed, output) as runtime:
        found = await objects.find(created, watched, params, metadata_params, runtime.store)
        job, store = found.job, runtime.store
        if job and found.refused and (error := await give_up(job, found.refused, store, run_info())):
            emit_failed(job, store.uri, error)
            raise error
        return found
