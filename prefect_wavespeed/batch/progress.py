"""How far a batch is, and where outcomes are recorded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.outcome import JobOutcome, Status
from prefect_wavespeed.batch.report.parts import ReportParts
from prefect_wavespeed.job import WarningCode

RESTYLING, DONE = "restyling", "done"


@dataclass
class Progress:
    """How far a batch is.

    Attributes:
        rows: of the manifest.
        counts: rows with an outcome, by status.
        warnings: of jobs that are stored, by code.
        spent_usd: what this run has paid so far for pictures stored or submitted.
        started: on the monotonic clock.
        restyling_since: when the first row could be submitted, on the same clock.
        stored_before: rows of which an earlier try of the run had stored the pictures by then.
        doing: what is being done, in a few words; ``RESTYLING`` while rows get their outcomes, then ``DONE``.
    """

    rows: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    warnings: Counter[WarningCode] = field(default_factory=Counter)
    spent_usd: float = 0.0
    started: float = field(default_factory=time.monotonic)
    restyling_since: float = field(default_factory=time.monotonic)
    stored_before: int = 0
    doing: str = "starting"

    @property
    def is_counting(self) -> bool:
        """Whether there is something to count: rows with an outcome."""
        return self.doing in (RESTYLING, DONE)

    @property
    def finished(self) -> int:
        """Rows with an outcome."""
        return self.counts.total()

    @property
    def rows_per_second(self) -> float:
        """How fast rows get their pictures, without those that had them before."""
        seconds = time.monotonic() - self.restyling_since
        return (self.counts["stored"] - self.stored_before) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the other rows will take at this rate; None while it is not known."""
        rate = self.rows_per_second
        return (self.rows - self.finished) / rate if rate > 0 else None


OnProgress = Callable[[Progress], None]
"""Called when something else is begun, and when more rows have an outcome. What it raises is ignored: a
terminal may be gone."""


class Recorder:
    """Records outcomes in the job table, in the parts of the report and in the progress.

    Args:
        table: where outcomes are kept.
        parts: where the report is written while the batch runs.
        on_progress: called after each outcome.

    Attributes:
        progress: how far the batch is.
        writes_parts: False until the batch has been quoted for real: a dry run leaves nothing behind.
    """

    def __init__(self, table: JobTable, parts: ReportParts, on_progress: OnProgress) -> None:
        self.progress = Progress()
        self.writes_parts = False
        self._table = table
        self._parts = parts
        self._on_progress = on_progress

    def doing(self, what: str) -> None:
        """Say what is being done from now on."""
        if what == RESTYLING != self.progress.doing:
            self.progress.restyling_since = time.monotonic()
            self.progress.stored_before = self.progress.counts["stored"]
        self.progress.doing = what
        self._report_progress()

    def record(self, job_key: str, outcome: JobOutcome) -> None:
        """Record the outcome of a job."""
        rows = self._table.record(job_key, outcome)
        self.progress.warnings.update(outcome.warnings)
        for row in rows:
            self.progress.counts[row.status] += 1
            self.progress.spent_usd += row.cost_usd or 0.0
        if self.writes_parts:
            self._parts.add(rows)
        self._report_progress()

    async def flush_if_due(self) -> None:
        """Write a part of the report if one is due."""
        if self.writes_parts:
            await self._parts.flush_if_due()

    def recount(self) -> None:
        """Bring the progress up to date with what was recorded in the table directly."""
        self.progress.counts = Counter(self._table.report.finished_counts())
        self.progress.warnings = Counter(self._table.report.warnings())
        self.progress.spent_usd = self._table.report.spent_usd()
        self._report_progress()

    def _report_progress(self) -> None:
        with suppress(Exception):  # an observer must not stop what is paid for
            self._on_progress(self.progress)
