"""This project's engine: ledger, verified outputs and side-cars included."""

from __future__ import annotations

import asyncio
from functools import partial

from benchmarks.contender import IMAGE, Work, contend
from restyle.client import WaveSpeedClient
from restyle.jobs import RunInfo
from restyle.models import ReduxParams
from restyle.steps import Steps, carry_through, make_job
from restyle.store import open_store


async def _restyle_all(work: Work) -> None:
    store = open_store(str(work.output))
    run = RunInfo(package_version="bench")
    places = asyncio.Semaphore(work.in_flight)
    room = asyncio.Semaphore(work.in_flight * 3 // 2)  # some are looked at, some download
    async with WaveSpeedClient("bench-key", work.base_url, max_connections=work.in_flight) as client:
        steps = Steps(client, store)
        submit, download = partial(steps.submit, run=run), partial(steps.download, run=run)

        async def one(number: int) -> None:
            job = await make_job(IMAGE, ReduxParams(seed=number), 0, store)
            async with room:
                await carry_through(job, submit, steps.poll, download, lambda: places, steps.look)

        await asyncio.gather(*(one(number) for number in range(work.images)))


def run(work: Work) -> None:
    """Restyle all images."""
    asyncio.run(_restyle_all(work))


if __name__ == "__main__":
    contend(run)
