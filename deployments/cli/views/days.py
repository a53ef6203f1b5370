"""The days of an output, a line each, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from rich.text import Text

from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.inspect.days import Day
from prefect_wavespeed.words import counted, printable

_ONE = timedelta(days=1)


def print_days(days: Sequence[Day], console: Console) -> None:
    """Print what each day is, and between which no run has reported; off a terminal separated by tabs."""
    lines = list(_lines(days))
    if not console.is_terminal:
        for line in lines:
            print(printable("\t".join(line), keep="\t"), file=console.file)
        return
    first, second, third = (max(len(line[column]) for line in lines) for column in range(3))
    for day, state, rows, manifest in lines:
        text = Text(f"{day.ljust(first)}  ")
        text.append(state.ljust(second), "green" if state == "whole" else "yellow")
        text.append(f"  {rows.ljust(third)}  {manifest}")
        console.print(text, soft_wrap=True)


def as_dict(day: Day) -> dict[str, Any]:
    """A day as JSON shows it."""
    return {
        "day": day.day.isoformat(),
        "whole": day.is_whole,
        "manifest": day.last.manifest,
        "rows": day.last.row_count,
        "counts": day.last.counts,
        "runs": day.runs,
        "flow_run_id": day.last.flow_run_id,
        "ended": day.last.ended.isoformat(),
        "report": day.last.report,
    }


def _lines(days: Sequence[Day]) -> Iterator[tuple[str, str, str, str]]:
    """Day, state, rows by status, manifest."""
    for before, after in pairwise([None, *days]):
        if before and after and after.day - before.day > _ONE:
            first, last = before.day + _ONE, after.day - _ONE
            yield f"{first}" if first == last else f"{first} to {last}", "no run", "", ""
        if after:
            state = "whole" if after.is_whole else "whole so far" if after.has_all else "not whole"
            rows = f"{counted(after.last.row_count, 'row')}: {after.last.outcome}"
            yield after.day.isoformat(), state, rows, after.last.manifest
