"""A job in one line, and as JSON."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prefect_wavespeed.inspect.advice import reason
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.inspect.listing import Status
from prefect_wavespeed.urls import readable
from prefect_wavespeed.words import printable

_INDENT = 18  # to the status, below the line's time
COLOURS: dict[Status, str] = {"done": "green", "failed": "red", "open": "yellow"}


def print_job(job: JobView, console: Console) -> None:
    """Print a line that fits the terminal; where there is none, one with tabs, for scripts.

    A reason that is too long for the line stands below it, whole.
    """
    if not console.is_terminal:
        print(printable(_tabbed(job), keep="\t"), file=console.file)  # not through Rich, which takes long
        return
    line, below = _line(job, console.width)
    console.print(line, soft_wrap=True)
    if below:
        console.print(Padding.indent(Text(below), _INDENT))


def as_dict(job: JobView) -> dict[str, Any]:
    """A job as JSON shows it."""
    return {
        "job_key": job.key,
        "status": job.status,
        "at": job.at.astimezone(UTC).isoformat(),
        "source": job.source,
        "usd": job.metadata.cost.usd if job.metadata else None,
        "pictures": len(job.metadata.outputs) if job.metadata else 0,
        "prediction_ids": sorted(job.prediction_ids),
        "reason": reason(job),
    }


def _tabbed(job: JobView) -> str:
    """Time, status, source, key, and cost or reason."""
    cells = [_time(job, "%Y-%m-%dT%H:%M:%SZ"), job.status, readable(job.source or ""), job.key, _outcome(job)]
    return "\t".join(map(_one_line, cells))


def _line(job: JobView, width: int) -> tuple[Text, str]:
    """The same, with the end of the source and the beginning of the key; and a reason that is too long."""
    text = Text()
    text.append(_time(job, "%Y-%m-%d %H:%M"), "dim")
    text.append(f"  {job.status:6}  ", COLOURS[job.status])
    room = max(24, width - len(text) - 12) // 2
    source, outcome = _one_line(readable(job.source or "?")), _one_line(_outcome(job))
    source = source if len(source) <= room else f"…{source[1 - room :]}"
    text.append(f"{source.ljust(room)}  {job.key[:8]}")
    return (text.append(f"  {outcome}"), "") if len(outcome) <= room else (text, outcome)


def _time(job: JobView, form: str) -> str:
    return job.at.astimezone(UTC).strftime(form)


def _outcome(job: JobView) -> str:
    """What the job cost, or why it is not done."""
    if job.metadata is None:
        return reason(job)
    usd = job.metadata.cost.usd
    return "cost unknown" if usd is None else f"{usd:.4f} USD"


def _one_line(text: str) -> str:
    return " ".join(text.split())
