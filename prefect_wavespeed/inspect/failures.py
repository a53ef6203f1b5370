"""The rows of a batch that have no pictures, and what to do about each. Nothing is written."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from prefect_wavespeed.batch.outcome import JobOutcome
from prefect_wavespeed.batch.report.rows import ReportRow
from prefect_wavespeed.concurrency import map_stream
from prefect_wavespeed.inspect.advice import next_step, next_step_of_row
from prefect_wavespeed.inspect.job_view import JobView, read_job
from prefect_wavespeed.inspect.listing import ListedJob
from prefect_wavespeed.inspect.runs import BatchRun, rows_without_pictures
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

_CONCURRENCY = 64  # rows whose jobs are looked up at once


class Failures:
    """The rows of a run that have no pictures now.

    A run leaves some jobs unfinished: what became of those is looked up in the ledger. Other rows are as the
    run has reported them; a later run may have stored them since.

    Args:
        store: the output.
        run: the run.
        out: the output, as on the command line.

    Attributes:
        stored_since: rows that the run left unfinished and that have their pictures by now, as far as
            ``rows`` has come.
    """

    def __init__(self, store: Store, run: BatchRun, out: str) -> None:
        self._store = store
        self._run = run
        self._out = out
        self.stored_since = 0

    async def rows(self) -> AsyncIterator[tuple[ReportRow, str]]:
        """Each row, and what to do next about it.

        Raises:
            StoreError: the store cannot be read.
        """
        look = partial(self._now, Ledger(self._store))
        rows = rows_without_pictures(self._store, self._run)
        async with aclosing(map_stream(look, rows, _CONCURRENCY)) as found:
            async for row_and_step in found:
                if row_and_step:
                    yield row_and_step
                else:
                    self.stored_since += 1

    async def _now(self, ledger: Ledger, row: ReportRow) -> tuple[ReportRow, str] | None:
        """The row as it is now; None if it has its pictures."""
        if row.status not in ("submitted", "open") or not row.job_key:
            return row, next_step_of_row(row, self._out)
        path = layout.open_job(row.job_key).rstrip("/")
        job = await read_job(ledger, ListedJob("open", row.job_key, self._run.at, path))
        if job is None or job.status == "done":  # what is not open any more and has not failed is stored
            return None
        if job.letter and job.status == "failed":
            outcome = JobOutcome.of_error("failed", job.letter.as_error())
            return _changed(row, outcome), next_step(job, self._out)
        if row.status == "open":
            return row, next_step_of_row(row, self._out)
        return self._unsettled(row, job)

    def _unsettled(self, row: ReportRow, job: JobView) -> tuple[ReportRow, str]:
        error = job.errors.get(job.open_job.latest)
        reason = "submitted and not settled yet"
        found = row.model_copy(update={"error_message": f"{error}: {reason}" if error else reason})
        if error or job.is_doubtful:
            return found, next_step(job, self._out)
        settle = f"`restyle settle --out {shlex.quote(self._out)}`"
        return found, f"{settle}, which stores it once it is ready and bills nothing"


def _changed(row: ReportRow, outcome: JobOutcome) -> ReportRow:
    names = ("status", "error_type", "error_message", "error_code", "attempt_errors", "retryable")
    return row.model_copy(update={name: getattr(outcome, name) for name in names})
