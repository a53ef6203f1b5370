"""The flow inside a user's own flow, which keeps every result, retries, and logs all that there is to log.

    python -m tests.support.persisted_runs '{"name": {parameters of restyle_image}, …}'

carries them all out, and prints ``{"name": what it ended with}``: the type of the error, if any.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from prefect import State, flow

from prefect_wavespeed.flows import restyle_image


@flow(persist_result=True, log_prints=True)
async def keep_everything(orders: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Carry out all orders."""
    kept = restyle_image.with_options(persist_result=True, retries=1, retry_delay_seconds=1)
    some_at_once = asyncio.Semaphore(8)  # what a Prefect server on SQLite bears where much else runs

    async def carry_out(order: dict[str, Any]) -> State[Any]:
        async with some_at_once:
            return await kept(**order, return_state=True)

    states = await asyncio.gather(*(carry_out(order) for order in orders.values()))
    return {name: await _ending(state) for name, state in zip(orders, states, strict=True)}


async def _ending(state: State[Any]) -> str:
    ended = await state.aresult(raise_on_failure=False)
    print(repr(ended), str(ended), getattr(ended, "__dict__", None), getattr(ended, "__cause__", None))
    return type(ended).__name__


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    print(json.dumps(asyncio.run(keep_everything(json.loads(sys.argv[1])))))
