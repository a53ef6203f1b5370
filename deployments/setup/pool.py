"""The work pool that the deployments' runs wait in, and the queue that says how many objects run at once."""

from __future__ import annotations

import os

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from prefect_wavespeed.blocks.names import OBJECT_QUEUE
from prefect_wavespeed.deployments.setup._report import say
from prefect_wavespeed.errors import ConfigurationError

RUNS = 4
"""`restyle-object` runs at once: a process each, which mostly waits."""


def wanted_runs() -> int | None:
    """Runs of `restyle-object` at once by the environment; None where it does not say.

    Raises:
        ConfigurationError: RESTYLE_RUNS is no number above 0.
    """
    runs = os.environ.get("RESTYLE_RUNS")
    if runs is None:
        return None
    if not (runs.isdecimal() and int(runs) > 0):
        raise ConfigurationError(f"RESTYLE_RUNS {runs}: give how many objects run at once, 1 or more")
    return int(runs)


async def set_up_pool(name: str, runs: int | None) -> None:
    """Make the work pool and its queue, where they are not there.

    Args:
        name: of the pool. One of another type than process is left as it is.
        runs: of `restyle-object` at once; None leaves a queue as it is.
    """
    async with get_client() as client:
        await _pool(client, name)
        await _queue(client, name, runs)


async def _pool(client: PrefectClient, name: str) -> None:
    try:
        there = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type=ProcessWorker.type,
                base_job_template=ProcessWorker.get_default_base_job_template(),
                description="Runs of prefect-wavespeed.",
            )
        )
        say("made", f"work-pool/{name}", f"now start a worker with `prefect worker start --pool {name}`")
        return
    say("found", f"work-pool/{name}", f"of type {there.type}, left alone")


async def _queue(client: PrefectClient, pool: str, runs: int | None) -> None:
    name = f"work-queue/{pool}/{OBJECT_QUEUE}"
    try:
        there = await client.read_work_queue_by_name(OBJECT_QUEUE, work_pool_name=pool)
    except ObjectNotFound:
        made = await client.create_work_queue(OBJECT_QUEUE, work_pool_name=pool)
        await client.update_work_queue(made.id, concurrency_limit=runs or RUNS)
        say("made", name, f"{runs or RUNS} objects at once")
        return
    # `prefect deploy` makes a queue without a limit, where it comes first
    wanted = runs or there.concurrency_limit or RUNS
    if there.concurrency_limit == wanted:
        say("found", name, f"{wanted} objects at once, left alone")
        return
    await client.update_work_queue(there.id, concurrency_limit=wanted)
    was = f", was {there.concurrency_limit}" if there.concurrency_limit else ""
    say("updated", name, f"{wanted} objects at once{was}")
