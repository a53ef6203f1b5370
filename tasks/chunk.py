"""The task that carries some jobs of a batch through: a task run for many images, for Prefect's sake."""

from __future__ import annotations

import asyncio
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_wavespeed.batch.run import Carrier
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.tasks.context import collect_task_runs, current_batch
from prefect_wavespeed.tasks.runtime import open_runtime


# No tags: a task's start asks the server whether one of them is limited, and a busy server takes its time.
@task(task_run_name="restyle {first}-{last}", cache_policy=NO_CACHE, persist_result=False)
async def restyle_chunk(first: int, last: int, fed: asyncio.Event, wavespeed: str, output: str) -> None:
    """Carry the jobs with these numbers through, each on its own.

    Args:
        first: number of the first job of the batch under way.
        last: number of the last one.
        fed: set when the last one has begun, so that the next chunk may begin.
        wavespeed: name of the `WaveSpeed` block.
        output: where the outputs go.
    """
    batch = current_batch.get()
    if batch is None:
        raise ConfigurationError("a chunk is a part of the flow restyle_batch: run that")
    collect_task_runs()
    async with open_runtime(wavespeed, output) as runtime:
        carrier = Carrier(
            partial(runtime.submit, nsfw=batch.options.nsfw, retry_failed=batch.options.retry_failed),
            runtime.poll,
            partial(runtime.download, nsfw=batch.options.nsfw),
            runtime.slot,
            runtime.steps.look,
        )
        await batch.carry_out(carrier.patient(), first, last, fed=fed)
