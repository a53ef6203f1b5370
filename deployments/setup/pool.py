"""The work pool of the deployments, and the queue that bounds how many objects are restyled at once."""

from __future__ import annotations

import os

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from prefect_wavespeed.blocks.names import OBJECT_QUEUE
from prefect_wavespeed.deployments.setup.report import report
from prefect_wavespeed.errors import ConfigurationError

DEFAULT_RUNS = 4
"""Runs of `restyle-object` at once: a process each, which mostly waits."""


def requested_runs() -> int | None:
    """Return how many `restyle-object` runs the environment allows at once; None where it does not say.

    Raises:
        ConfigurationError: RESTYLE_RUNS is not a number above 0.
    """
    runs = os.environ.get("RESTYLE_RUNS")
    if runs is None:
        return None
    if not (runs.isdecimal() and int(runs) > 0):
        raise ConfigurationError(f"RESTYLE_RUNS {runs}: give how many objects to restyle at once, 1 or more")
    return int(runs)


async def set_up_pool(name: str, runs: int | None) -> None:
    """Create the work pool and its queue where they are missing.

    Args:
        name: of the pool; an existing one is kept, whatever its type.
        runs: of `restyle-object` at once; None keeps the queue's limit.
    """
    async with get_client() as client:
        await _set_up_pool(client, name)
        await _set_up_queue(client, name, runs)


async def _set_up_pool(client: PrefectClient, name: str) -> None:
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type=ProcessWorker.type,
                base_job_template=ProcessWorker.get_default_base_job_template(),
                description="Runs of prefect-wavespeed.",
            )
        )
        report("created", f"work-pool/{name}", f"start a worker with `prefect worker start --pool {name}`")
        return
    report("found", f"work-pool/{name}", f"of type {pool.type}, unchanged")


async def _set_up_queue(client: PrefectClient, pool: str, runs: int | None) -> None:
    name = f"work-queue/{pool}/{OBJECT_QUEUE}"
    try:
        queue = await client.read_work_queue_by_name(OBJECT_QUEUE, work_pool_name=pool)
    except ObjectNotFound:
        queue = await client.create_work_queue(OBJECT_QUEUE, work_pool_name=pool)
        await client.update_work_queue(queue.id, concurrency_limit=runs or DEFAULT_RUNS)
        report("created", name, f"{runs or DEFAULT_RUNS} objects at once")
        return
    # when `prefect deploy` comes first, it creates the queue without a limit
    limit = runs or queue.concurrency_limit or DEFAULT_RUNS
    if queue.concurrency_limit == limit:
        report("found", name, f"{limit} objects at once, unchanged")
        return
    await client.update_work_queue(queue.id, concurrency_limit=limit)
    before = f", was {queue.concurrency_limit}" if queue.concurrency_limit else ""
    report("updated", name, f"{limit} objects at once{before}")
