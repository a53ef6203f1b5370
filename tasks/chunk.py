"""The task that carries out many jobs of a batch: Prefect records few task runs a second."""

from __future__ import annotations

import asyncio
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.tasks.context import collect_task_runs, current_batch
from prefect_wavespeed.tasks.runtime import open_runtime


@task(task_run_name="restyle {first}-{last}", cache_policy=NO_CACHE, persist_result=False)
async def restyle_chunk(
    first: int, last: int, all_started: asyncio.Event, wavespeed: WaveSpeedParam, output: OutputParam
) -> None:
    """Carry out the jobs with these numbers, each by itself.

    Args:
        first: number of the first job, in the batch that is running.
        last: number of the last one.
        all_started: set when the last one has started, so that the next chunk may start.
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: where the outputs go.

    Raises:
        ConfigurationError: no batch is running.
    """
    batch = current_batch.get()
    if batch is None:
        raise ConfigurationError("restyle_chunk runs only inside the flow restyle_batch: run that")
    collect_task_runs()
    async with open_runtime(wavespeed, output) as runtime:
        carrier = Carrier(
            partial(runtime.submit, nsfw=batch.options.nsfw_rules, retry_failed=batch.options.retry_failed),
            runtime.poll,
            partial(runtime.download, nsfw=batch.options.nsfw_rules),
            runtime.slot,
            runtime.steps.expect_new,
        )
        await batch.carry_out(carrier.with_retries(), first, last, all_started=all_started)
