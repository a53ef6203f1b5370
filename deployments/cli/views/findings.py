"""What `restyle doctor --live` found out."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.inspect.live.report import LiveReport


def print_findings(report: LiveReport) -> None:
    """Print a table that fits the terminal; where there is none, a plain line for each finding."""
    console = Console()
    if console.is_terminal:
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        table.add_column("asked", no_wrap=True)
        for title in ("the API", "so"):
            table.add_column(title, ratio=1, overflow="fold")
        for finding in report.findings:
            style = "" if finding.known else "dim"
            table.add_row(finding.asked, Text(finding.found, style), Text(finding.means, style))
        console.print(table)
    else:
        for finding in report.findings:
            means = f" → {finding.means}" if finding.means else ""
            print(f"{finding.asked}: {finding.found}{means}")
    print(
        f"spent: {report.newly_spent_usd:g} USD now, {report.spent_usd:g} USD for all {len(report.pictures)} "
        "pictures, by the price call"
    )
