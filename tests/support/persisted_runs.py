"""Our flow inside a user's flow that persists every result, retries, and logs everything.

    python -m tests.support.persisted_runs '{"name": {parameters of restyle_image}, …}'

runs it with each set of parameters, and prints ``{"name": the type of its result or error}``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from prefect import State, flow

from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.flows import arestyle_image


@flow(persist_result=True, log_prints=True)
async def persist_everything(parameters: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Run the flow with each set of parameters."""
    persisting = arestyle_image.with_options(persist_result=True, retries=1, retry_delay_seconds=1)

    async def run(arguments: dict[str, Any]) -> State[Any]:
        return await persisting(**arguments, return_state=True)

    # at most 8 at once: a busy Prefect server on SQLite copes with no more
    states = await map_all(run, parameters.values(), limit=8)
    return {name: await _result_type(state) for name, state in zip(parameters, states, strict=True)}


async def _result_type(state: State[Any]) -> str:
    result = await state.aresult(raise_on_failure=False)
    print(repr(result), str(result), getattr(result, "__dict__", None), getattr(result, "__cause__", None))
    return type(result).__name__


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    print(json.dumps(asyncio.run(persist_everything(json.loads(sys.argv[1])))))
