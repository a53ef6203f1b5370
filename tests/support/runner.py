"""One image through the engine in a process of its own, which may be killed, paused or live in another time.

    python -m tests.support.runner IMAGE OUTPUT BASE_URL [--params JSON] [--clock SECONDS]
        [--at PLACE --do WHAT] [--listed-as-new]

prints the Restyled, or {"error": …} with exit status 1, as JSON. Times are those of ``RESTYLE_…_SECONDS``.

PLACE is ``MOMENT METHOD [PATTERN]``: before, after or during (0.3 s after its start) a call of a method of
Store or WaveSpeedClient whose first argument fits the pattern, such as ``after create *.claim.json``.
There the process kills itself (``kill``) or stands still for some seconds: ``sleep 6``, or ``freeze 6``
after which neither of its clocks tells of it. All of it is done from outside, around the methods: the engine
knows nothing of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

import time_machine

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.storage.store import Store
from tests.support.engine import restyle


def main(argv: list[str]) -> int:
    """Do what the command line says, and return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.support.runner")
    parser.add_argument("image")
    parser.add_argument("output")
    parser.add_argument("base_url")
    parser.add_argument("--params", default="{}", type=ReduxParams.model_validate_json)
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--listed-as-new", action="store_true")
    parser.add_argument("--clock", default=0.0, type=float)
    parser.add_argument("--at")
    parser.add_argument("--do", default="kill")
    asked = parser.parse_args(argv)
    if asked.clock:
        time_machine.travel(time.time() + asked.clock, tick=True).start()
    if asked.at:
        arrange(asked.at, asked.do)
    try:
        restyled = asyncio.run(
            restyle(
                asked.base_url,
                asked.output,
                asked.image,
                asked.params,
                settings=Settings(),
                retry_failed=asked.retry_failed,
                listed_as_new=asked.listed_as_new,
            )
        )
    except RestyleError as error:
        print(json.dumps({"error": {"type": type(error).__name__, "message": error.message}}))
        return 1
    print(restyled.model_dump_json())
    return 0


def arrange(at: str, do: str) -> None:
    """See to it that something happens at a place."""
    moment, method, pattern = (*at.split(), "*")[:3]
    owner: Any = Store if hasattr(Store, method) else WaveSpeedClient
    original: Callable[..., Any] = getattr(owner, method)

    async def watched(self: Any, *args: Any, **more: Any) -> Any:
        here = fnmatchcase(str(args[0]) if args else "", pattern)
        if here and moment == "before":
            _happen(do)
        if here and moment == "during":
            asyncio.get_running_loop().call_later(0.3, _happen, do)
        answer = await original(self, *args, **more)
        if here and moment == "after":
            _happen(do)
        return answer

    setattr(owner, method, watched)


@cache  # it happens once
def _happen(do: str) -> None:
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    what, seconds = do.split()
    time.sleep(float(seconds))  # the whole process, as when a machine is suspended
    if what == "freeze":
        for clock in (time.time, time.monotonic):
            setattr(time, clock.__name__, partial(_late, clock, float(seconds)))


def _late(clock: Callable[[], float], seconds: float) -> float:
    return clock() - seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
