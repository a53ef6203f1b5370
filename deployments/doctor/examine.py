"""All checks of `restyle doctor`, those that do not depend on each other at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

from prefect_wavespeed.blocks.names import is_block
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.deployments.doctor import prefect_checks
from prefect_wavespeed.deployments.prefect_errors import as_restyle_error
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.inspect.check_api import KEY, account_skipped, check_api
from prefect_wavespeed.inspect.check_jobs import check_jobs
from prefect_wavespeed.inspect.check_store import OUTPUT, check_directory, check_store, storage_skipped
from prefect_wavespeed.inspect.checks import (
    Check,
    check_clocks,
    check_settings,
    error,
    skipped,
    warning,
)
from prefect_wavespeed.storage.open_store import open_store

_SECONDS = 20.0  # for what has no shorter limit of its own

_Checks = tuple[list[Check], timedelta | None]
"""Checks, and how far the other side's clock is ahead of this machine's; None where that is unknown."""


async def examine(out: str | None, wavespeed: str, *, fix: bool = False) -> list[Check]:
    """Run all checks.

    Args:
        out: the output; None for the one that deployments use.
        wavespeed: name of the `WaveSpeed` block.
        fix: free slots that no run holds.
    """
    settings, api = check_settings(), await prefect_checks.check_api()
    down = api.status == "error"
    if down:
        of_block, block = _depends_on(api, prefect_checks.BLOCK), None
    else:
        of_block, block = await prefect_checks.check_block(wavespeed)

    async def limit() -> Check:
        if block is None:
            return _depends_on(of_block, prefect_checks.LIMIT)
        return await prefect_checks.check_limit(block, fix=fix)

    async def pool() -> Check:
        return _depends_on(api, prefect_checks.POOL) if down else await prefect_checks.check_pool()

    async def cap() -> Check:
        return _depends_on(api, prefect_checks.CAP) if down else await prefect_checks.check_cap()

    limits, pools, caps, account, storage = await asyncio.gather(
        _guarded(prefect_checks.LIMIT, limit()),
        _guarded(prefect_checks.POOL, pool()),
        _guarded(prefect_checks.CAP, cap()),
        _check_account(block, depends_on=settings if settings.status == "error" else of_block),
        _check_storage(out, api),
    )
    clocks = check_clocks(account[1], storage[1])
    return [settings, api, of_block, limits, pools, caps, *account[0], *storage[0], *clocks]


async def _check_account(block: WaveSpeed | None, depends_on: Check) -> _Checks:
    """What WaveSpeedAI answers, if there is a key to ask with."""
    if block is None or depends_on.status == "error":
        return account_skipped(depends_on.name), None
    try:
        async with block.get_client() as client:
            client.timeout = min(client.timeout, _SECONDS / 2)
            return await check_api(client), client.clock_skew
    except RestyleError as problem:
        return [error(KEY, problem.message, "correct the block"), *account_skipped(KEY)[1:]], None


async def _check_storage(out: str | None, api: Check) -> _Checks:
    """What the output can do, if it is known which one it is."""
    if api.status == "error" and (out is None or is_block(out)):
        return storage_skipped(api.name), None
    try:
        async with asyncio.timeout(_SECONDS):
            out = out or await prefect_checks.find_output()
            if out is None:
                remedy = "name one with --out, or save one with `restyle setup --out …`"
                return [warning(OUTPUT, "none is named and none is saved", remedy)], None
            if not is_block(out) and (missing := await asyncio.to_thread(check_directory, out)):
                return [missing], None
            if is_block(out):
                store = await prefect_checks.open_block(out)
            else:
                store = await asyncio.to_thread(open_store, out)
    except TimeoutError:
        return _storage_error("no answer from Prefect")
    except Exception as problem:
        return _storage_error(as_restyle_error(problem).message)
    checks, skew = await check_store(store)
    if any(check.name == OUTPUT and check.status == "ok" for check in checks):
        checks += await check_jobs(store, out)
    return checks, skew


def _storage_error(problem: str) -> _Checks:
    return [error(OUTPUT, problem, "fix what the message names"), *storage_skipped(OUTPUT)[1:]], None


async def _guarded(name: str, check: Awaitable[Check]) -> Check:
    """Await a check; an exception becomes an error of that name."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await check
    except TimeoutError:
        return error(name, f"Prefect did not answer within {_SECONDS:g} s", "see whether its server is busy")
    except Exception as problem:
        return error(name, as_restyle_error(problem).message, "see the log of Prefect's server")


def _depends_on(failed: Check, name: str) -> Check:
    return skipped(name, f"{failed.name}: see above")
