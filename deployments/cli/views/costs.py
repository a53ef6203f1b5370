"""The sections of `restyle costs`: tables on a terminal, otherwise lines that scripts can cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.errors import redact
from prefect_wavespeed.inspect.cost_report import CostReport, Difference, Differences, Owner, Sum, Undelivered
from prefect_wavespeed.words import counted

_MAX_ROWS = 20  # of what may be long; `--json` prints more
_OWNERS: dict[Owner, str] = {
    "open": "the job is still open",
    "failed": "the job failed for good",
    "earlier attempt": "an earlier attempt at a job that is stored",
    "not of this output": "not of this output",
}


@dataclass(frozen=True)
class _Section:
    """A table. The first column is text, the others are figures; a column without a title is text, too."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def print_costs(costs: CostReport) -> None:
    """Print tables that fit the terminal; where there is none, plain lines."""
    console = Console()
    for number, section in enumerate(_sections(costs)):
        if console.is_terminal:
            console.print(Text(f"\n{section.title}" if number else section.title, "bold"))
            console.print(Padding.indent(_table(section), 2))
        else:
            print("\n".join(_lines(section)))


# --- what to show ---


def _sections(costs: CostReport) -> list[_Section]:
    since = f" since {costs.since:%Y-%m-%d}" if costs.since else ""
    sums = ("jobs", "pictures", "USD")
    days = [(day, *_figures(of)) for day, of in costs.days.items()]
    runs = [(_run_name(run.flow_run_name, run.flow_run_id), *_figures(run)) for run in costs.runs[:_MAX_ROWS]]
    if more := len(costs.runs) + costs.runs_left_out - len(runs):
        runs.append((f"… and {more} more: use --json", "", "", ""))
    sections = [
        _Section(f"stored{since}, by day (UTC)", ("day", *sums), [*days, ("total", *_figures(costs.total))]),
        _Section("by run, most expensive first", ("run", *sums), runs),
        _Section("paid for and not delivered", ("prediction", "USD", ""), _undelivered(costs.undelivered)),
        _Section("compared with the billing", ("", "predictions", "USD"), _comparison(costs)),
        _Section("differences", ("prediction", "recorded USD", "billed USD", ""), _differences(costs)),
    ]
    return [section for section in sections if section.rows]


def _undelivered(undelivered: Undelivered) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (redact(one.prediction_id), _usd(one.recorded_usd), "") for one in undelivered.items[:_MAX_ROWS]
    ]
    if more := undelivered.predictions - len(rows):
        rows.append((f"… and {more} more: use --json", "", ""))
    if rows:
        missing = f"{counted(undelivered.pictures, 'picture')} missing"
        rows.append(("total", _usd(undelivered.usd), missing))
    return rows


def _comparison(costs: CostReport) -> Sequence[tuple[str, ...]]:
    groups = [
        ("billed differently: billed minus recorded", costs.differ),
        ("recorded but not billed", costs.unbilled),
        ("refunded", costs.refunded),
        *(
            (f"billed without a side-car: {_OWNERS[belongs_to]}", of)
            for belongs_to, of in costs.without_side_car.items()
        ),
    ]
    rows: list[tuple[str, ...]] = [
        ("billed for this output", "", _usd(costs.billed_usd)),
        ("billed as recorded", str(costs.agreed), ""),
        *((what, str(of.predictions), _usd(of.usd)) for what, of in groups if of.predictions),
    ]
    if costs.unpriced:
        rows.append(("recorded without a price", str(costs.unpriced), ""))
    if costs.unreadable:
        rows.append(("side-cars of another version, left out", str(costs.unreadable), ""))
    if costs.unreadable_billings:
        rows.append(("billing records without a price, left out", str(costs.unreadable_billings), ""))
    return rows


def _differences(costs: CostReport) -> list[tuple[str, ...]]:
    kinds = [
        ("differs", costs.differ),
        ("not billed", costs.unbilled),
        ("refunded", costs.refunded),
        *((_OWNERS[belongs_to], of) for belongs_to, of in costs.without_side_car.items()),
    ]
    return [row for kind, of in kinds for row in _difference_rows(kind, of)]


def _difference_rows(kind: str, differences: Differences) -> list[tuple[str, ...]]:
    rows = [_difference_row(one, kind) for one in differences.items[:_MAX_ROWS]]
    if more := differences.predictions - len(rows):
        rows.append((f"… and {more} more: use --json", "", "", kind))
    return rows


def _difference_row(one: Difference, kind: str) -> tuple[str, ...]:
    details = f"{kind}: {_OWNERS[one.belongs_to]}" if one.belongs_to and kind == "refunded" else kind
    return (redact(one.prediction_id), _usd(one.recorded_usd), _usd(one.billed_usd), details)


def _figures(of: Sum) -> tuple[str, str, str]:
    return str(of.jobs), str(of.pictures), _usd(of.usd)


def _run_name(name: str | None, run_id: str | None) -> str:
    if run_id is None:
        return "without a flow"
    return f"{name} ({run_id})" if name else run_id


def _usd(usd: float | None) -> str:
    return "" if usd is None else f"{usd:.4f}"


# --- how to show it ---


def _table(section: _Section) -> Table:
    if not section.columns[0]:
        return _pairs(section)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    text_columns = [number for number, column in enumerate(section.columns) if not (number and column)]
    for number, column in enumerate(section.columns):
        table.add_column(
            column.replace(" ", "\n"),
            justify="left" if number in text_columns else "right",
            overflow="fold",
            no_wrap=number != text_columns[-1],  # ids stay whole, to be copied
        )
    for row in section.rows:
        table.add_row(*map(Text, row))
    return table


def _pairs(section: _Section) -> Table:
    """Each figure with its unit, where columns would be half empty."""
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
