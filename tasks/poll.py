"""The task that waits for a prediction."""

from __future__ import annotations

from prefect import task

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.tasks._options import TASK_OPTIONS
from prefect_wavespeed.tasks.runtime import open_runtime


@task(task_run_name="poll {job.label}", **TASK_OPTIONS)
async def poll(
    job: Job,
    submitted: Submitted,
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
) -> Polled:
    """Wait until a prediction is ready.

    Args:
        job: what was asked for.
        submitted: what `submit` returned.
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: where the outputs go, and the ledger is.

    Returns:
        Completed, or failed in a way that another attempt may not.
    """
    async with open_runtime(wavespeed, output) as runtime:
        return await runtime.poll(job, submitted)
