"""The jobs of an output: what failed lately, and what is left open. Nothing is written."""

from __future__ import annotations

import asyncio
import shlex
import time
from datetime import UTC, datetime, timedelta
from heapq import nlargest

from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.inspect.checks import Check, ok, skipped, warning
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.ledger.open_jobs import open_keys
from prefect_wavespeed.reasons import Reasons
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

FAILED, OPEN = "failed jobs", "open jobs"

_LATELY = timedelta(days=1)
_READ = 50  # dead letters, the newest
_SHOWN = 5  # reasons
_OLD = timedelta(hours=1)  # then no run is working on it any more
_LISTING_SECONDS = 8.0  # each; of very many objects the first are looked at
_SECONDS = 20.0


async def check_jobs(store: Store, out: str) -> list[Check]:
    """Look at the dead letters of the last day and at the open jobs.

    Args:
        store: the output.
        out: the output, as on the command line.
    """
    ledger, quoted = Ledger(store), shlex.quote(out)
    try:
        async with asyncio.timeout(_SECONDS):
            return list(await asyncio.gather(_check_failed(ledger, quoted), _check_open(store, quoted)))
    except (RestyleError, TimeoutError) as problem:
        reason = problem.message if isinstance(problem, RestyleError) else f"no answer within {_SECONDS:g} s"
        return [skipped(name, reason) for name in (FAILED, OPEN)]


async def _check_failed(ledger: Ledger, out: str) -> Check:
    since, deadline = datetime.now(UTC) - _LATELY, time.monotonic() + _LISTING_SECONDS
    recent: list[tuple[datetime, str]] = []
    count, least = 0, ""
    async for page in ledger.store.pages(layout.FAILED):
        found = [
            (entry.last_modified, key)
            for entry in page
            if (key := layout.key_of_dead_letter(entry.path)) and entry.last_modified >= since
        ]
        count += len(found)
        recent = nlargest(_READ, [*recent, *found])
        if time.monotonic() > deadline:
            least = "at least "
            break
    if not count:
        return ok(FAILED, f"{least and 'of those listed in time '}none in the last day")
    letters = await map_all(ledger.dead_letter, [key for _, key in recent], _READ)
    reasons = Reasons()
    for letter in letters:
        if letter:
            reasons.add("failed", letter.error.message, letter.source.uri, letter.source.uri)
    shown = [f"{reason.count:,} {reason.reason}" for reason in reasons.listed()[:_SHOWN]]
    newest = f" (of the newest {_READ})" if count > _READ else ""
    more = "; …" if len(reasons.listed()) > _SHOWN else ""
    return warning(
        FAILED,
        f"{least}{counted(count, 'job')} failed for good in the last day{newest}: {'; '.join(shown)}{more}",
        f"`restyle failures --out {out}` says what to do about the last batch; "
        f"`restyle list --out {out} --status failed --since 1d` lists all",
    )


async def _check_open(store: Store, out: str) -> Check:
    deadline, least = time.monotonic() + _LISTING_SECONDS, ""
    count, oldest = 0, datetime.max.replace(tzinfo=UTC)
    async for _, at in open_keys(store):
        count, oldest = count + 1, min(oldest, at)
        if time.monotonic() > deadline:
            least = "at least "
            break
    if not count:
        return ok(OPEN, "none")
    age = datetime.now(UTC) - oldest
    found = f"{least}{count:,} open, the oldest unchanged for {_described(age)}"
    if age < _OLD:
        return ok(OPEN, f"{found}: a run may be working on it")
    return warning(
        OPEN,
        found,
        f"`restyle settle --out {out}` finishes what was submitted and bills nothing; "
        f"`restyle list --out {out} --status open` says why they are open",
    )


def _described(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return counted(seconds // length, unit)
    return counted(seconds, "second")
