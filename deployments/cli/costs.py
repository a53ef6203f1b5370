"""`restyle costs`: what an output has cost, against what was billed, as tables, plain lines or JSON."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefect_wavespeed.deployments.cli._looking import open_known
from prefect_wavespeed.deployments.cli._prefect import quiet_run
from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.inspect.costs import Costs, Difference, Differences, Sum, costs

_SHOWN = 20  # rows of what may be long; `--json` tells more
_DAYS = re.compile(r"(\d{1,5})d", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def run(out: str, since: str | None, wavespeed: str, *, as_json: bool) -> int:
    """Add up, compare and print.

    Args:
        out: the output.
        since: a day as YYYY-MM-DD, or a number of days such as 7d; None for everything.
        wavespeed: name of the `WaveSpeed` block.
        as_json: print one JSON object on stdout.

    Returns:
        The exit status: 0, also where the accounts differ.

    Raises:
        BaseException: what went wrong, to be told by the caller.
    """
    start = since_when(since, datetime.now(UTC)) if since is not None else None
    with quiet_run():
        told = asyncio.run(_costs(out, start, wavespeed))
    if as_json:
        print(told.model_dump_json())
    else:
        _show(_sections(told), Console(highlight=False))
    return 0


def since_when(since: str, now: datetime) -> datetime:
    """The start of a day, UTC: the one that is named, or that of so many days ago.

    Raises:
        ConfigurationError: it is neither, or has not come yet.
    """
    try:
        if days := _DAYS.fullmatch(since):
            day = now.date() - timedelta(days=int(days[1]))
        elif _DAY.fullmatch(since):
            day = datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC).date()
        else:
            raise ValueError
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"--since {redact(since)}: give a day as YYYY-MM-DD, or a number of days such as 7d"
        ) from None
    if day > now.date():
        raise ConfigurationError(f"--since {since}: this day has not come yet (today is {now.date()}, UTC)")
    return datetime.combine(day, time(), UTC)


async def _costs(out: str, since: datetime | None, wavespeed: str) -> Costs:
    store = await open_known(out)
    from prefect_wavespeed.blocks.wavespeed import load_wavespeed

    block = await load_wavespeed(wavespeed)
    async with block.get_client() as client:
        return await costs(client, store, since)


@dataclass(frozen=True)
class _Section:
    """A table, however it is shown. The first column is text, the others are figures."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def _sections(told: Costs) -> list[_Section]:
    since = f" since {told.since:%Y-%m-%d}" if told.since else ""
    sums = ("jobs", "pictures", "USD")
    days = [(day, *_figures(of)) for day, of in told.days.items()]
    runs = [(_run_name(run.flow_run_name, run.flow_run_id), *_figures(run)) for run in told.runs[:_SHOWN]]
    if more := len(told.runs) + told.runs_left_out - len(runs):
        runs.append((f"… and {more} more: --json tells them", "", "", ""))
    sections = [
        _Section(f"stored{since}, by day (UTC)", ("day", *sums), [*days, ("total", *_figures(told.total))]),
        _Section("by run, the dearest first", ("run", *sums), runs),
        _Section("against the billing", ("", "predictions", "USD"), _comparison(told)),
        _Section("differences", ("prediction", "recorded USD", "billed USD", ""), _differences(told)),
    ]
    return [section for section in sections if section.rows]


def _comparison(told: Costs) -> Sequence[tuple[str, ...]]:
    groups = [
        ("billed otherwise than recorded: billed minus recorded", told.differ),
        ("recorded, and not billed", told.unbilled),
        ("refunded", told.refunded),
        *((f"billed without a side-car: {_WHOSE[whose]}", of) for whose, of in told.without_side_car.items()),
    ]
    rows = [
        ("billed for this output", "", _usd(told.billed_usd)),
        ("billed as recorded", str(told.agreed), ""),
        *((what, str(of.predictions), _usd(of.usd)) for what, of in groups if of.predictions),
    ]
    if told.unpriced:
        rows.append(("recorded without a price", str(told.unpriced), ""))
    if told.unreadable:
        rows.append(("side-cars of another version, left out", str(told.unreadable), ""))
    return rows


_WHOSE = {
    "open": "the job is still open",
    "failed": "the job failed for good",
    "earlier attempt": "an earlier attempt at a job that is stored",
    "not of this output": "not of this output",
}


def _differences(told: Costs) -> list[tuple[str, ...]]:
    kinds = [
        ("differs", told.differ),
        ("not billed", told.unbilled),
        ("refunded", told.refunded),
        *((_WHOSE[whose], of) for whose, of in told.without_side_car.items()),
    ]
    return [row for what, of in kinds for row in _rows(what, of)]


def _rows(what: str, of: Differences) -> list[tuple[str, ...]]:
    rows = [_row(one, what) for one in of.told[:_SHOWN]]
    if more := of.predictions - len(rows):
        rows.append((f"… and {more} more: --json tells them", "", "", what))
    return rows


def _row(one: Difference, what: str) -> tuple[str, ...]:
    whose = f"{what}: {_WHOSE[one.whose]}" if one.whose and what == "refunded" else what
    return (redact(one.prediction_id), _usd(one.recorded_usd), _usd(one.billed_usd), whose)


def _figures(of: Sum) -> tuple[str, str, str]:
    return str(of.jobs), str(of.pictures), _usd(of.usd)


def _run_name(name: str | None, run_id: str | None) -> str:
    if run_id is None:
        return "without a flow"
    return f"{name} ({run_id})" if name else run_id


def _usd(usd: float | None) -> str:
    return "" if usd is None else f"{usd:.4f}"


def _show(sections: list[_Section], console: Console) -> None:
    """Tables that keep to the terminal's width; where there is none, lines that scripts can cut."""
    for number, section in enumerate(sections):
        if console.is_terminal:
            console.print(Text(f"\n{section.title}" if number else section.title, "bold"))
            console.print(Padding.indent(_table(section), 2))
        else:
            print("\n".join(_lines(section)))


def _table(section: _Section) -> Table:
    if not section.columns[0]:
        return _pairs(section)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    words = [number for number, column in enumerate(section.columns) if not (number and column)]
    for number, column in enumerate(section.columns):
        table.add_column(
            column.replace(" ", "\n"),
            justify="left" if number in words else "right",
            overflow="fold",
            no_wrap=number != words[-1],  # ids stay whole, to be copied
        )
    for row in section.rows:
        table.add_row(*map(Text, row))
    return table


def _pairs(section: _Section) -> Table:
    """What has a figure here and another there: each with its unit, where columns would be half empty."""
    table = Table.grid(padding=(0, 2))
    for what, *figures in section.rows:
        units = zip(figures, section.columns[1:], strict=True)
        table.add_row(Text(what), Text(", ".join(f"{one} {_unit(unit, one)}" for one, unit in units if one)))
    return table


def _unit(unit: str, count: str) -> str:
    return unit.removesuffix("s") if count == "1" else unit


def _lines(section: _Section) -> list[str]:
    """The title, and the rows indented, in columns."""
    table = [section.columns, *section.rows]
    widths = [max(len(row[number]) for row in table) for number in range(len(section.columns))]
    lines = [section.title]
    for row in table:
        cells = [
            cell.rjust(width) if number and section.columns[number] else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines
