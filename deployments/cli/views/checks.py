"""The checks of `restyle doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.inspect.checks import Check, Status

_COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}


def print_checks(checks: Sequence[Check]) -> None:
    """Print a table that fits the terminal; where there is none, a plain line for each check."""
    console = Console()
    if not console.is_terminal:
        for check in checks:
            remedy = f" → {check.remedy}" if check.remedy else ""
            print(f"{check.status:8} {check.name}: {check.found}{remedy}")
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
