"""`restyle doctor`: what a run needs, looked at side by side, a line each. It spends and leaves nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_wavespeed.deployments.cli._errors import as_told
from prefect_wavespeed.deployments.cli._prefect import quiet_run
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.inspect.check_api import KEY, account_skipped, check_api
from prefect_wavespeed.inspect.check_store import OUTPUT, check_directory, check_store, storage_skipped
from prefect_wavespeed.inspect.checks import (
    Check,
    Status,
    check_clocks,
    check_settings,
    error,
    skipped,
    warning,
)
from prefect_wavespeed.storage.open_store import is_block, open_store

if TYPE_CHECKING:
    from prefect_wavespeed.blocks.wavespeed import WaveSpeed

_SECONDS = 20.0  # for what has no shorter limit of its own
_COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}

_Found = tuple[list[Check], timedelta | None]
"""Checks, and how far a clock is ahead of this machine's where that is known."""


def run(out: str | None, wavespeed: str, *, as_json: bool) -> int:
    """Check everything and print what was found.

    Args:
        out: the output; None looks at the one that deployments use.
        wavespeed: name of the `WaveSpeed` block.
        as_json: print one JSON object on stdout.

    Returns:
        The exit status: 0 when nothing is wrong, 1 otherwise.
    """
    with quiet_run():
        waiting = Console(stderr=True)
        with waiting.status("looking") if waiting.is_terminal else nullcontext():
            checks = asyncio.run(_examine(out, wavespeed))
    healthy = all(check.status != "error" for check in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": [check.model_dump() for check in checks]}))
    else:
        _show(checks, Console(highlight=False))
    return 0 if healthy else 1


async def _examine(out: str | None, wavespeed: str) -> list[Check]:
    from prefect_wavespeed.deployments.cli import _check_prefect as prefect

    settings, api = check_settings(), await prefect.check_prefect()
    down = api.status == "error"
    of_block, block = (_unchecked(prefect.BLOCK, api), None) if down else await prefect.check_block(wavespeed)

    async def limit() -> Check:
        return await prefect.check_limit(block) if block else _unchecked(prefect.LIMIT, of_block)

    async def pool() -> Check:
        return _unchecked(prefect.POOL, api) if down else await prefect.check_pool()

    limits, pools, account, storage = await asyncio.gather(
        _guarded(prefect.LIMIT, limit()),
        _guarded(prefect.POOL, pool()),
        _account(block, because=settings if settings.status == "error" else of_block),
        _storage(out, api),
    )
    clocks = check_clocks(account[1], storage[1])
    return [settings, api, of_block, limits, pools, *account[0], *storage[0], *clocks]


async def _account(block: WaveSpeed | None, because: Check) -> _Found:
    """What WaveSpeedAI says, where there is a key to ask with."""
    if block is None or because.status == "error":
        return account_skipped(because.name), None
    try:
        async with block.get_client() as client:
            client.timeout = min(client.timeout, _SECONDS / 2)
            return await check_api(client), client.clock_skew
    except RestyleError as problem:
        return [error(KEY, problem.message, "mend the block"), *account_skipped(KEY)[1:]], None


async def _storage(out: str | None, api: Check) -> _Found:
    """What the output can do, where it is known which one it is."""
    from prefect_wavespeed.deployments.cli._check_prefect import find_output, open_block

    if api.status == "error" and (out is None or is_block(out)):
        return storage_skipped(api.name), None
    try:
        async with asyncio.timeout(_SECONDS):
            out = out or await find_output()
            if out is None:
                remedy = "name one with --out, or save one with `restyle setup --out …`"
                return [warning(OUTPUT, "none is named and none is saved", remedy)], None
            if not is_block(out) and (missing := await asyncio.to_thread(check_directory, out)):
                return [missing], None
            store = await open_block(out) if is_block(out) else await asyncio.to_thread(open_store, out)
    except Exception as problem:
        told = "no answer from Prefect" if isinstance(problem, TimeoutError) else as_told(problem).message
        return [error(OUTPUT, told, "mend what is named"), *storage_skipped(OUTPUT)[1:]], None
    return await check_store(store)


async def _guarded(name: str, check: Awaitable[Check]) -> Check:
    """A check; also where it cannot be made."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await check
    except TimeoutError:
        return error(name, f"Prefect did not answer within {_SECONDS:g} s", "see whether its server is busy")
    except Exception as problem:
        return error(name, as_told(problem).message, "see the log of Prefect's server")


def _unchecked(name: str, because: Check) -> Check:
    return skipped(name, f"{because.name}: see above")


def _show(checks: list[Check], console: Console) -> None:
    """A table that keeps to the terminal's width; where there is none, a plain line each."""
    if not console.is_terminal:
        for check in checks:
            print(f"{check.status:8} {check.name}: {_told(check)}")
        return
    table = Table.grid(padding=(0, 2))
    for overflow in ("ellipsis", "ellipsis", "fold"):
        table.add_column(overflow=overflow, no_wrap=overflow == "ellipsis")
    for check in checks:
        text = Text(check.found, "dim" if check.status == "skipped" else "")
        if check.remedy:
            text.append(f"\n→ {check.remedy}", "bold" if check.status == "error" else "")
        table.add_row(Text(check.status, _COLOURS[check.status]), check.name, text)
    console.print(table)


def _told(check: Check) -> str:
    return f"{check.found} → {check.remedy}" if check.remedy else check.found
