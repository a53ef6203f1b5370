"""What the report says, read from the tables of ``JobTable``."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator

from pydantic import TypeAdapter

from prefect_wavespeed.batch.manifest.carried import ColumnTypes
from prefect_wavespeed.batch.manifest.rows import BadRow
from prefect_wavespeed.batch.outcome import JobOutcome, Status, rebuilt_error
from prefect_wavespeed.batch.report.rows import ReportRow, Thumbnails
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.job import WarningCode, seed_sent
from prefect_wavespeed.reasons import NAMES, Reason, Reasons

OUTCOME = TypeAdapter(JobOutcome)
SOURCE_POSITION = 0  # of the source's thumbnail; the outputs' are their numbers: 1, 2, …

_ROWS = (
    "SELECT rows.number, rows.id, rows.image, rows.carried, rows.reason, rows.error_type,"
    " rows.job, jobs.key, jobs.seed, jobs.variant, jobs.status, jobs.outcome, jobs.first_row"
    " FROM rows LEFT JOIN jobs ON rows.job = jobs.number"
)
_FAILED = "WHERE jobs.status IN ('failed', 'given_up', 'open', 'unsubmitted') OR rows.error_type IS NOT NULL"
_FAILED_SO_FAR = (
    "WHERE jobs.status IN ('failed', 'given_up', 'open', 'unsubmitted') AND jobs.outcome IS NOT NULL"
    " OR rows.error_type IS NOT NULL"
)
_WAITING = "WHERE rows.job IS NOT NULL AND jobs.outcome IS NULL"
_IGNORED = "WHERE rows.reason IS NOT NULL AND rows.error_type IS NULL"


class JobReport:
    """Reads rows, counts and figures of a batch; rows always in the order of the manifest.

    Args:
        db: the tables ``rows``, ``jobs`` and ``thumbnails``.
        bad_rows: how many bad rows there are of each status.
        carried: types of the carried columns.
    """

    def __init__(self, db: sqlite3.Connection, bad_rows: Counter[Status], carried: ColumnTypes) -> None:
        self._db = db
        self._bad_rows = bad_rows
        self._carried = carried

    # -- rows ---------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[ReportRow, Thumbnails | None]]:
        """All rows, with the thumbnails of those that have any."""
        pictured = {job for (job,) in self._db.execute("SELECT DISTINCT job FROM thumbnails")}
        for job, row in self._numbered_rows():
            yield row, self._thumbnails(job) if job in pictured else None

    def rows_of(self, job_key: str) -> list[ReportRow]:
        """The rows that ask for a job."""
        of_job = "WHERE rows.job = (SELECT number FROM jobs WHERE key = ?)"
        return list(self._rows(of_job, bytes.fromhex(job_key)))

    def failures(self, limit: int = -1) -> Iterator[ReportRow]:
        """The first rows that have no pictures and were not ignored."""
        return self._rows(_FAILED, limit=limit)

    def ignored(self, limit: int = -1) -> Iterator[ReportRow]:
        """The first rows that were ignored: they are invalid."""
        return self._rows(_IGNORED, limit=limit)

    def pictured(self, limit: int) -> list[tuple[ReportRow, Thumbnails]]:
        """The first rows that have thumbnails."""
        where = "WHERE rows.job IN (SELECT job FROM thumbnails)"
        return [
            (row, self._thumbnails(job) or Thumbnails())
            for job, row in self._numbered_rows(where, limit=limit)
        ]

    def first_stopped(self) -> ReportRow | None:
        """The first row that was not submitted because submitting had stopped; its error says why."""
        where = "WHERE jobs.status = 'unsubmitted' AND jobs.error_type IS NOT NULL"
        return next(self._rows(where, limit=1), None)

    # -- figures ------------------------------------------------------------------------------------

    def counts(self) -> dict[Status, int]:
        """How many rows there are of each status."""
        return self._with_bad_rows("SELECT status, sum(row_count) FROM jobs GROUP BY status")

    def finished_counts(self) -> dict[Status, int]:
        """How many rows there are of each status, without those whose jobs have no outcome yet."""
        query = "SELECT status, sum(row_count) FROM jobs WHERE outcome IS NOT NULL GROUP BY status"
        return self._with_bad_rows(query)

    def errors(self) -> dict[str, int]:
        """How many rows failed with each class of error, the most frequent first."""
        query = (
            "SELECT error_type, sum(count) FROM ("
            "SELECT error_type, row_count AS count FROM jobs"
            " WHERE error_type IS NOT NULL AND status IN ('failed', 'open')"
            " UNION ALL SELECT error_type, 1 FROM rows WHERE error_type IS NOT NULL"
            ") GROUP BY error_type ORDER BY 2 DESC, 1"
        )
        return dict(self._db.execute(query).fetchall())

    def reasons(self) -> list[Reason]:
        """Why rows have no pictures, the most frequent reasons first."""
        reasons = Reasons()
        for rows in (self._rows(_FAILED_SO_FAR), self.ignored()):
            for row in rows:
                reasons.add(row.status, row.reason, row.name, row.image)
        # All others have the same one: of a dry run these are all rows, and there may be a million.
        for row in (waiting := list(self._rows(_WAITING, limit=NAMES))):
            reasons.add(row.status, row.reason, row.name)
        query = "SELECT sum(row_count) FROM jobs WHERE outcome IS NULL"
        if waiting and (more := self._db.execute(query).fetchone()[0] - len(waiting)):
            reasons.add(row.status, row.reason, row.name, count=more)
        return reasons.listed()

    def warnings(self) -> dict[WarningCode, int]:
        """How many warnings of each code there are, the most frequent first."""
        tally: Counter[WarningCode] = Counter()
        query = "SELECT warnings, count(*) FROM jobs WHERE warnings != '' GROUP BY warnings"
        for codes, jobs in self._db.execute(query):
            for code in codes.split():
                tally[code] += jobs
        return dict(tally.most_common())

    def flagged(self) -> int:
        """Pictures of stored jobs that are flagged as unsafe for work."""
        return int(self._db.execute("SELECT coalesce(sum(flagged), 0) FROM jobs").fetchone()[0])

    def job_errors(self) -> list[RestyleError]:
        """The errors of jobs, one of each class that may or may not be retried, without their messages."""
        query = (
            "SELECT DISTINCT error_type, retryable FROM jobs"
            " WHERE error_type IS NOT NULL AND status != 'given_up'"
        )
        return [
            rebuilt_error(name, "", None if retryable is None else bool(retryable))
            for name, retryable in self._db.execute(query).fetchall()
        ]

    def pictures(self) -> int:
        """Pictures stored by this run."""
        query = "SELECT coalesce(sum(pictures), 0) FROM jobs WHERE status = 'stored'"
        return int(self._db.execute(query).fetchone()[0])

    def spent_usd(self) -> float:
        """What this run has paid, in USD, for all that was stored or submitted."""
        return float(self._db.execute("SELECT coalesce(sum(cost_usd), 0) FROM jobs").fetchone()[0])

    def latency(self, quantile: float) -> float | None:
        """Seconds from submission to stored: a quantile, 0 to 1, over the jobs that this run has stored."""
        stored = "FROM jobs WHERE status = 'stored' AND seconds IS NOT NULL"
        (count,) = self._db.execute(f"SELECT count(*) {stored}").fetchone()
        if not count:
            return None
        query = f"SELECT seconds {stored} ORDER BY seconds LIMIT 1 OFFSET ?"
        (seconds,) = self._db.execute(query, (min(count - 1, int(quantile * count)),)).fetchone()
        return float(seconds)

    # -----------------------------------------------------------------------------------------------

    def _rows(self, where: str = "", *values: object, limit: int = -1) -> Iterator[ReportRow]:
        return (row for _, row in self._numbered_rows(where, *values, limit=limit))

    def _numbered_rows(
        self, where: str = "", *values: object, limit: int = -1
    ) -> Iterator[tuple[int | None, ReportRow]]:
        """Rows, each after the number of its job, if it has one."""
        query = f"{_ROWS} {where} ORDER BY rows.number LIMIT ?"
        for number, row_id, image, carried, reason, error_type, job, *of_job in self._db.execute(
            query, (*values, limit)
        ):
            if job is None:
                row = _bad_row(BadRow(number, reason, row_id, image, error_type))
            else:
                row = _row(number, row_id, image, *of_job)
            if carried:
                row.carried = self._carried.typed(json.loads(carried))
            yield job, row

    def _thumbnails(self, job: int | None) -> Thumbnails | None:
        query = "SELECT position, jpeg FROM thumbnails WHERE job = ? ORDER BY position"
        jpegs = dict(self._db.execute(query, (job,)).fetchall())
        source = jpegs.pop(SOURCE_POSITION, None)
        return Thumbnails(source, jpegs) if source or jpegs else None

    def _with_bad_rows(self, query: str) -> dict[Status, int]:
        return dict(Counter(dict(self._db.execute(query).fetchall())) + self._bad_rows)


def _bad_row(row: BadRow) -> ReportRow:
    return ReportRow(
        row=row.number,
        id=row.id,
        image=row.image or "",
        status=row.status,
        error_type=row.error_type or "BadRow",
        error_message=row.reason,
        retryable=False,
    )


def _row(
    number: int,
    row_id: str | None,
    image: str | None,
    key: bytes,
    seed: int,
    variant: int,
    status: Status,
    outcome_json: bytes | None,
    first_row: int,
) -> ReportRow:
    job_key = key.hex()
    outcome = OUTCOME.validate_json(outcome_json) if outcome_json else JobOutcome("unsubmitted")
    return ReportRow(
        row=number,
        id=row_id,
        image=image or "",
        status=status,
        variant=variant,
        job_key=job_key,
        prediction_id=outcome.prediction_id,
        seed=seed_sent(seed, job_key),
        outputs=outcome.outputs,
        warnings=outcome.warnings,
        warning_outputs=outcome.warning_outputs,
        flagged=outcome.flagged,
        metadata_uri=outcome.metadata_uri,
        # a job that several rows ask for is paid once
        cost_usd=outcome.cost_usd if number == first_row or not outcome.cost_usd else 0.0,
        attempts=outcome.attempts,
        error_type=outcome.error_type,
        error_message=outcome.error_message,
        error_code=outcome.error_code,
        attempt_errors=outcome.attempt_errors,
        retryable=outcome.retryable,
        seconds=outcome.seconds,
    )
