"""Jobs submitted, or settled, by a process of its own that gets killed.

    python -m tests.support.settler submit|restyle|settle OUTPUT BASE_URL [--count N] [--first N]
        [--unrecorded] [--nsfw POLICY] [--nsfw-unchecked POLICY] [--at PLACE]

``submit`` submits variants of one photograph and kills itself as soon as all are submitted, with
``--unrecorded`` before any of them is recorded. ``restyle`` takes them to their end. ``settle`` prints what
it did as JSON. PLACE is where it kills itself, as in tests/runner.py. Times are those of ``RESTYLE_…``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import Any

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.job import NsfwRules, RunInfo
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.settling.settle import settle
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.store import Store
from tests.support.engine import PHOTO, SMALL, restyle
from tests.support.processes import Command
from tests.support.runner import arrange
from tests.support.runners import TIMES

RUN = RunInfo(package_version="test")


def start(what: str, output: str, base_url: str, *options: str, env: dict[str, str] | None = None) -> Command:
    """Start one of them."""
    arguments = ["-m", "tests.support.settler", what, output, base_url, *options]
    return Command(arguments, {**os.environ, **TIMES, **(env or {})})


async def main(argv: list[str]) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser("python -m tests.support.settler")
    parser.add_argument("what", choices=["submit", "restyle", "settle"])
    parser.add_argument("output")
    parser.add_argument("base_url")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--unrecorded", action="store_true")
    parser.add_argument("--nsfw", default="keep")
    parser.add_argument("--nsfw-unchecked", default="quarantine")
    parser.add_argument("--at")
    asked = parser.parse_args(argv)
    if asked.at:
        arrange(asked.at, "kill")
    variants = range(asked.first, asked.first + asked.count)
    if asked.what == "restyle":
        await asyncio.gather(*(restyle(asked.base_url, asked.output, variant=one) for one in variants))
        return
    store = open_store(asked.output)
    async with WaveSpeedClient("test-key", asked.base_url) as client:
        if asked.what == "settle":
            print((await settle(client, store, RUN)).model_dump_json())
            return
        await _submit_all(client, store, variants, asked)
    os.kill(os.getpid(), signal.SIGKILL)


async def _submit_all(
    client: WaveSpeedClient, store: Store, variants: range, asked: argparse.Namespace
) -> None:
    steps = StepSet(client, store, get_settings())
    answered: asyncio.Queue[None] = asyncio.Queue()
    submit, create = WaveSpeedClient.submit, Store.create

    async def counted(*args: Any, **more: Any) -> Any:
        prediction = await submit(*args, **more)
        answered.put_nowait(None)
        return prediction

    async def held_back(store: Store, path: str, *args: Any, **more: Any) -> bool:
        if path.endswith(".prediction.json"):
            await asyncio.Event().wait()
        return await create(store, path, *args, **more)

    nsfw = NsfwRules(flagged=asked.nsfw, unchecked=asked.nsfw_unchecked)

    async def one(variant: int) -> None:
        await steps.submit(await make_job(str(PHOTO), SMALL, variant, store), run=RUN, nsfw=nsfw)

    patches: Any = WaveSpeedClient, Store
    patches[0].submit = counted
    if asked.unrecorded:
        patches[1].create = held_back
    under_way = [asyncio.ensure_future(one(variant)) for variant in variants]
    for _ in variants:
        await answered.get()
    if not asked.unrecorded:
        await asyncio.wait(under_way)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
