"""The rows of a batch that have no pictures."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Self

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

    number: int
    reason: str
    count: int = 0


class FailureGroups:
    """Rows grouped by reason and next step, the largest group first, for people.

    The rows themselves are kept in SQLite's private temporary database: there may be very many.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], _Group] = {}
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE rows (kind INTEGER, name TEXT, image TEXT, key TEXT)")
        self._db.execute("CREATE INDEX rows_by_kind ON rows (kind)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, row: ReportRow, step: str) -> None:
        """Add a row."""
        key = row.job_key or ""
        common = shared(row.reason, row.image)
        kind = (in_words(row.status), step.replace(key[:16], _KEY) if key else step, common)
        group = self._groups.setdefault(kind, _Group(len(self._groups), row.reason))
        group.count += 1
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (group.number, row.name, row.image, key[:8]))
        if group.count > 1:
            group.reason = common

    def print(self, console: Console) -> None:
        """Print each reason, what to do, and its rows with their images and the beginnings of their keys."""
        of_group = "FROM rows WHERE kind = ?"
        for (status, step, _), group in sorted(self._groups.items(), key=lambda item: -item[1].count):
            console.print(Text(f"{group.count:,} {status}: {group.reason}", "bold"))
            console.print(Padding.indent(Text(f"→ {step}"), 2))
            ((longest,),) = self._db.execute(f"SELECT max(length(name)) {of_group}", (group.number,))
            widest = min(24, longest)
            for name, image, key in self._db.execute(
                f"SELECT name, image, key {of_group} ORDER BY rowid", (group.number,)
            ):
                room = max(24, console.width - widest - 14)
                shown = image if len(image) <= room else f"…{image[1 - room :]}"
                console.print(Text(f"  {name.ljust(widest)}  {shown}  {key}".rstrip()), soft_wrap=True)
