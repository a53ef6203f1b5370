"""`restyle list`: a line a job, as it is found, or all of them as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from tempfile import SpooledTemporaryFile
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from prefect_wavespeed.deployments.cli._looking import Looking, open_known
from prefect_wavespeed.deployments.cli._prefect import quiet_run
from prefect_wavespeed.deployments.cli.costs import since_when
from prefect_wavespeed.inspect.advice import reason
from prefect_wavespeed.inspect.jobs import JobView, Status, jobs

COLOURS: dict[Status, str] = {"done": "green", "failed": "red", "open": "yellow"}

_IN_MEMORY = 1 << 20  # bytes of JSON; more is kept in a temporary file until all is known


def run(out: str, status: Status | None, since: str | None, *, as_json: bool) -> int:
    """Print the jobs of an output.

    Args:
        out: the output.
        status: only those that stand there.
        since: a day as YYYY-MM-DD, or a number of days such as 7d; None for all.
        as_json: print one JSON object on stdout.

    Returns:
        The exit status: 0, also where there are none.

    Raises:
        BaseException: what went wrong, to be told by the caller.
    """
    start = since_when(since, datetime.now(UTC)) if since is not None else None
    to_stdout = sys.stdout
    with quiet_run():
        if as_json:
            with SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as kept:
                asyncio.run(_json(out, status, start, kept))
                kept.seek(0)
                shutil.copyfileobj(kept, to_stdout)
        else:
            _stream(_lines(out, status, start, Console(file=to_stdout, highlight=False)), to_stdout)
    return 0


def _stream(lines: Coroutine[Any, Any, int], to: TextIO) -> None:
    """Print as long as somebody reads: `restyle list | head` has seen enough, and that is no error."""
    try:
        if not asyncio.run(lines):
            print("no such jobs", file=sys.stderr)
        to.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), to.fileno())  # for what Python flushes at its end


async def _json(out: str, status: Status | None, since: datetime | None, kept: Any) -> None:
    """One object; nothing of it is shown before all of it is known."""
    store = await open_known(out)
    between = '{"jobs": ['
    with Looking() as looking:
        async for facts in jobs(store, status, since, looking.on_page):
            kept.write(f"{between}{json.dumps(as_dict(facts))}")
            between = ", "
    kept.write("]}\n" if between == ", " else '{"jobs": []}\n')


async def _lines(out: str, status: Status | None, since: datetime | None, console: Console) -> int:
    store = await open_known(out)
    count = 0
    with Looking() as looking:
        async for facts in jobs(store, status, since, looking.on_page):
            if console.is_terminal:
                looking.stop()
                console.print(line(facts, console.width), soft_wrap=True)
            else:
                print(tabbed(facts), file=console.file)
            count += 1
    return count


def as_dict(facts: JobView) -> dict[str, Any]:
    """A job as JSON tells it."""
    return {
        "job_key": facts.key,
        "status": facts.status,
        "at": facts.at.astimezone(UTC).isoformat(),
        "source": facts.source,
        "usd": facts.metadata.cost.usd if facts.metadata else None,
        "pictures": len(facts.metadata.outputs) if facts.metadata else 0,
        "prediction_ids": sorted(facts.prediction_ids),
        "reason": reason(facts),
    }


def tabbed(facts: JobView) -> str:
    """A line for scripts: time, status, source, key, cost or reason, with tabs between."""
    cells = [_time(facts, "%Y-%m-%dT%H:%M:%SZ"), facts.status, facts.source or "", facts.key, _outcome(facts)]
    return "\t".join(map(_one_line, cells))


def line(facts: JobView, width: int) -> Text:
    """The same for a terminal: of the source the end, which tells most, and the beginning of the key."""
    text = Text()
    text.append(_time(facts, "%Y-%m-%d %H:%M"), "dim")
    text.append(f"  {facts.status:6}  ", COLOURS[facts.status])
    room = max(24, width - len(text) - 12) // 2
    source, outcome = _one_line(facts.source or "?"), _one_line(_outcome(facts))
    source = source if len(source) <= room else f"…{source[1 - room :]}"
    outcome = outcome if len(outcome) <= room else f"{outcome[: room - 1]}…"
    return text.append(f"{source.ljust(room)}  {facts.key[:8]}  {outcome}")


def _time(facts: JobView, form: str) -> str:
    return facts.at.astimezone(UTC).strftime(form)


def _outcome(facts: JobView) -> str:
    """What it cost, or why it is not done."""
    if facts.metadata is None:
        return reason(facts)
    usd = facts.metadata.cost.usd
    return "cost not known" if usd is None else f"{usd:.4f} USD"


def _one_line(text: str) -> str:
    return " ".join(text.split())
