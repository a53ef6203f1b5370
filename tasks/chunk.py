"""The task that carries some jobs of a batch through: a task run for many images, for Prefect's sake."""

from __future__ import annotations

import asyncio
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from restyle.batch import Batch, Carrier
from restyle.errors import ConfigurationError
from restyle.jobs import Job, Restyled
from restyle.steps import Polled, Submitted
from tasks._events import failed_event, stored_event, submitted_event
from tasks._runtime import Runtime, batch_under_way, note_task_runs, opened, run_info


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
    batch = batch_under_way.get()
    if batch is None:
        raise ConfigurationError("a chunk is a part of the flow restyle_batch: run that")
    note_task_runs()
    async with opened(wavespeed, output) as runtime:
        await batch.carry_out(_carrier(batch, runtime), first, last, fed=fed)


def _carrier(batch: Batch, runtime: Runtime) -> Carrier:
    run, steps, output, order = run_info(), runtime.steps, runtime.store.uri, batch.order
    go = partial(steps.submit, run=run, nsfw=order.nsfw, retry_failed=order.retry_failed)

    async def submit(job: Job, *, after: int) -> Submitted:
        with failed_event(job, output):
            submitted = await go(job, after=after)
        if not submitted.restyled:
            submitted_event(job, output, submitted)
        return submitted

    async def poll(job: Job, submitted: Submitted) -> Polled:
        with failed_event(job, output):
            return await steps.poll(job, submitted)

    async def download(job: Job, submitted: Submitted) -> Restyled:
        restyled = await steps.download(job, submitted, run=run, nsfw=order.nsfw)
        stored_event(job, output, restyled)
        return restyled

    return Carrier(submit, poll, download, runtime.place, steps.look).patient()
