"""The task that carries some jobs of a batch through: a task run for many images, for Prefect's sake."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from restyle.batch import Batch, Carrier
from restyle.jobs import Job, NsfwPolicy, Restyled
from restyle.steps import Polled, Submitted
from tasks._events import failed_event, stored_event
from tasks._runtime import Runtime, note_task_runs, run_info

batch_under_way: ContextVar[tuple[Batch, Runtime]] = ContextVar("batch_under_way")
"""The batch of the flow run under way, and what it runs on: too big to be a task's parameter."""


@task(task_run_name="restyle {first}-{last}", cache_policy=NO_CACHE, persist_result=False, tags=["wavespeed"])
async def restyle_chunk(first: int, last: int, fed: asyncio.Event) -> None:
    """Carry the jobs with these numbers through, each on its own.

    Args:
        first: number of the first job of the batch under way.
        last: number of the last one.
        fed: set when the last one has begun, so that the next chunk may begin.
    """
    batch, runtime = batch_under_way.get()
    note_task_runs()
    await batch.carry_out(_carrier(batch, runtime), first, last, fed=fed)


def _carrier(batch: Batch, runtime: Runtime) -> Carrier:
    run, steps, output = run_info(), runtime.steps, runtime.store.uri
    nsfw: NsfwPolicy = batch.order.nsfw

    async def poll(job: Job, submitted: Submitted) -> Polled:
        with failed_event(job, output):
            return await steps.poll(job, submitted)

    async def download(job: Job, submitted: Submitted) -> Restyled:
        restyled = await steps.download(job, submitted, run=run, nsfw=nsfw)
        stored_event(job, output, restyled)
        return restyled

    submit = partial(steps.submit, run=run, nsfw=nsfw, retry_failed=batch.order.retry_failed)
    return Carrier(submit, poll, download, runtime.place).patient()
