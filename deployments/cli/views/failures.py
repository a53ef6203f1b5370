"""The rows of a batch that have no pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from prefect_wavespeed.batch.report.rows import ReportRow
from prefect_wavespeed.reasons import in_words, shared

_KEY = "KEY"


def tabbed(row: ReportRow, step: str) -> str:
    """Id, status, image, reason and next step, with tabs, for scripts."""
    return "\t".join(
        " ".join(part.split()) for part in (row.name, in_words(row.status), row.image, row.reason, step)
    )


@dataclass
class _Group:
    """Rows of one reason."""

    reason: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # name, image, beginning of the key


class FailureGroups:
    """Rows grouped by reason and next step, the largest group first, for people."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], _Group] = {}

    def add(self, row: ReportRow, step: str) -> None:
        """Add a row."""
        key = row.job_key or ""
        common = shared(row.reason, row.image)
        kind = (in_words(row.status), step.replace(key[:16], _KEY) if key else step, common)
        group = self._groups.setdefault(kind, _Group(row.reason))
        group.rows.append((row.name, row.image, key[:8]))
        if len(group.rows) > 1:
            group.reason = common

    def print(self, console: Console) -> None:
        """Print each reason, what to do, and its rows with their images and the beginnings of their keys."""
        for (status, step, _), group in sorted(self._groups.items(), key=lambda item: -len(item[1].rows)):
            console.print(Text(f"{len(group.rows):,} {status}: {group.reason}", "bold"))
            console.print(Padding.indent(Text(f"→ {step}"), 2))
            widest = min(24, max(len(name) for name, _, _ in group.rows))
            for name, image, key in group.rows:
                room = max(24, console.width - widest - 14)
                shown = image if len(image) <= room else f"…{image[1 - room :]}"
                console.print(Text(f"  {name.ljust(widest)}  {shown}  {key}".rstrip()), soft_wrap=True)
