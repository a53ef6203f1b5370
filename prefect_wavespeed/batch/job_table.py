"""The rows of a batch, its distinct jobs and their outcomes.

Kept in SQLite's private temporary database, which spills to disk and disappears with the process: a million
rows need no more memory than a thousand, and no signed URL is left on disk.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from prefect_wavespeed.batch.manifest.carried import ColumnTypes
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.batch.outcome import JobOutcome, Status
from prefect_wavespeed.batch.report.query import OUTCOME, SOURCE_POSITION, JobReport
from prefect_wavespeed.batch.report.rows import ReportRow
from prefect_wavespeed.batch.shards import lot
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import price_key
from prefect_wavespeed.storage.scratch import sqlite_error

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, id TEXT, image TEXT, job_key TEXT, reason TEXT, error_type TEXT, carried TEXT
);
CREATE INDEX rows_by_job ON rows (job_key);
-- outcome: NULL until the job has ended; unbilled: why it will not be billed any more;
-- seen: 'new' if the store held nothing of the job, 'known' if it did
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE, job TEXT, price_kind TEXT, lot INTEGER,
    first_row INTEGER, row_count INTEGER DEFAULT 1, unbilled TEXT, name TEXT, num_images INTEGER,
    seen TEXT,
    status TEXT DEFAULT 'unsubmitted', outcome TEXT, pictures INTEGER DEFAULT 0, cost_usd REAL,
    seconds REAL, error_type TEXT, retryable INTEGER, warnings TEXT DEFAULT '',
    flagged INTEGER DEFAULT 0
);
CREATE TABLE thumbnails (job_key TEXT, position INTEGER, jpeg BLOB, PRIMARY KEY (job_key, position));
"""
_NAMED = "SELECT number, key, name, num_images, seen IS 'known' FROM jobs WHERE outcome IS NULL"
_MAX_THUMBNAILS = 40_000


class NamedJob(NamedTuple):
    """What a listing is searched for.

    Attributes:
        number: of the job in the batch.
        key, name: the job's.
        num_images: how many pictures it asks for.
        is_known: the store is known to hold something of it.
    """

    number: int
    key: str
    name: str
    num_images: int
    is_known: bool


class _Database(sqlite3.Connection):
    """Says what to do when its temporary file does not fit on the disk."""

    def execute(self, *args: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*args)
        except sqlite3.OperationalError as error:
            raise sqlite_error(error) from None


class JobTable:
    """The rows of a batch and its jobs, numbered from 1 in the order of their first rows.

    Attributes:
        row_count: rows so far, bad ones included.
        job_count: distinct jobs so far.
        bad_rows: how many bad rows there are of each status.
        left_out: objects below the manifest's prefix that are no images, by the ending of their names.
        carried: the manifest's own columns that rows carry, and their types.
        report: what the report says of them.
    """

    def __init__(self) -> None:
        # "": private, on disk, unlinked at once; the report is written from another thread
        self._db = sqlite3.connect("", check_same_thread=False, factory=_Database)
        self._db.executescript(_SCHEMA)
        self.row_count = 0
        self.job_count = 0
        self.bad_rows: Counter[Status] = Counter()
        self.left_out: Counter[str] = Counter()
        self.carried = ColumnTypes()
        self.report = JobReport(self._db, self.bad_rows, self.carried)
        self._thumbnails = 0

    def close(self) -> None:
        """Delete it all."""
        self._db.close()

    # -- rows ---------------------------------------------------------------------------------------

    def add(self, row: Row, job: Job) -> None:
        """Add a row. A job that several rows ask for is one job."""
        self.row_count += 1
        self._db.execute(
            "INSERT INTO rows (number, id, image, job_key, carried) VALUES (?, ?, ?, ?, ?)",
            (row.number, row.id, job.source.uri, job.key, self._carry(row)),
        )
        known = "UPDATE jobs SET row_count = row_count + 1 WHERE key = ?"
        if self._db.execute(known, (job.key,)).rowcount:
            return
        self.job_count += 1
        self._db.execute(
            "INSERT INTO jobs (number, key, job, price_kind, lot, first_row, name, num_images)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.job_count,
                job.key,
                job.model_dump_json(),
                str(price_key(job.params)),
                lot(row.safe_image),
                row.number,
                job.name,
                job.params.num_images,
            ),
        )

    def add_bad(self, row: BadRow) -> None:
        """Add a row that cannot be used."""
        self.row_count += 1
        self.bad_rows[row.status] += 1
        self._db.execute(
            "INSERT INTO rows (number, id, image, reason, error_type, carried) VALUES (?, ?, ?, ?, ?, ?)",
            (row.number, row.id, row.image, row.reason, row.error_type, self._carry(row)),
        )

    def _carry(self, row: Row | BadRow) -> str | None:
        if not row.carried:
            return None
        self.carried.add(row.carried)
        return json.dumps(row.carried)

    def first_bad_rows(self, limit: int) -> list[BadRow]:
        """The first rows that cannot be used."""
        query = (
            "SELECT number, reason, id, image, error_type FROM rows WHERE reason IS NOT NULL"
            " ORDER BY number LIMIT ?"
        )
        return [BadRow(*columns) for columns in self._db.execute(query, (limit,))]

    # -- jobs without an outcome --------------------------------------------------------------------

    def unfinished(self, first: int = 1, last: int | None = None) -> Iterator[Job]:
        """The jobs with these numbers, by default all, that have no outcome when it is their turn."""
        query = "SELECT job FROM jobs WHERE number = ? AND outcome IS NULL"
        for number in range(first, (last or self.job_count) + 1):
            for (job,) in self._db.execute(query, (number,)).fetchall():
                yield Job.model_validate_json(job)

    def has_unfinished(self, first: int, last: int) -> bool:
        """Whether any of the jobs with these numbers has no outcome."""
        query = "SELECT 1 FROM jobs WHERE number BETWEEN ? AND ? AND outcome IS NULL LIMIT 1"
        return self._db.execute(query, (first, last)).fetchone() is not None

    def mark_unbilled(self, key: str, why: Literal["open", "failed"]) -> None:
        """Note that a job will not be billed any more: its prediction exists, or it has failed for good."""
        self._db.execute("UPDATE jobs SET unbilled = ? WHERE key = ?", (why, key))

    def count_unbilled(self, why: Literal["open", "failed"]) -> int:
        """How many jobs without an outcome will not be billed any more for that reason."""
        query = "SELECT count(*) FROM jobs WHERE outcome IS NULL AND unbilled = ?"
        return int(self._db.execute(query, (why,)).fetchone()[0])

    def billable(self, shards: int = 1) -> Iterator[tuple[Job, int, int]]:
        """The jobs still to be billed, by price and by shard: one of them, how many, the shard's number."""
        query = (
            "SELECT job, count(*), lot % ? + 1 AS shard FROM jobs WHERE outcome IS NULL AND unbilled IS NULL"
            " GROUP BY shard, price_kind"
        )
        for job, count, shard in self._db.execute(query, (shards,)).fetchall():
            yield Job.model_validate_json(job), count, shard

    def jobs_of_shard(self, number: int, shards: int) -> Iterator[tuple[str, bool]]:
        """Keys of a shard's jobs that have no outcome, each with whether the store held nothing of it."""
        query = "SELECT key, seen IS 'new' FROM jobs WHERE outcome IS NULL AND lot % ? = ? ORDER BY number"
        return ((key, bool(is_new)) for key, is_new in self._db.execute(query, (shards, number - 1)))

    def shard_of(self, key: str, shards: int) -> int:
        """The number of the shard, of so many, that a job belongs to."""
        query = "SELECT lot % ? + 1 FROM jobs WHERE key = ?"
        return int(self._db.execute(query, (shards, key)).fetchone()[0])

    # -- the survey ---------------------------------------------------------------------------------

    def jobs_by_key(self) -> Iterator[NamedJob]:
        """The jobs without an outcome, sorted by key."""
        return map(NamedJob._make, self._db.execute(f"{_NAMED} ORDER BY key"))

    def jobs_by_name(self) -> Iterator[NamedJob]:
        """The jobs without an outcome, in the order of their folders in a listing."""
        return map(NamedJob._make, self._db.execute(f"{_NAMED} ORDER BY name || '/'"))

    def unsurveyed(self) -> Iterator[Job]:
        """The jobs without an outcome of which the survey does not know that they are new."""
        query = "SELECT job FROM jobs WHERE number = ? AND outcome IS NULL AND seen IS NOT 'new'"
        for number in range(1, self.job_count + 1):
            for (job,) in self._db.execute(query, (number,)).fetchall():
                yield Job.model_validate_json(job)

    def is_new(self, key: str) -> bool:
        """Whether the store held nothing of a job."""
        query = "SELECT seen IS 'new' FROM jobs WHERE key = ?"
        return bool(self._db.execute(query, (key,)).fetchone()[0])

    def mark_known(self, numbers: Iterable[int]) -> None:
        """Note of which jobs the store holds something."""
        self._db.executemany("UPDATE jobs SET seen = 'known' WHERE number = ?", ((n,) for n in numbers))

    def mark_new(self, key: str) -> None:
        """Note that the store holds nothing of a job."""
        self._db.execute("UPDATE jobs SET seen = 'new' WHERE key = ?", (key,))

    def mark_rest_new(self) -> None:
        """Note that the store holds nothing of all jobs that were not found."""
        self._db.execute("UPDATE jobs SET seen = 'new' WHERE outcome IS NULL AND seen IS NULL")

    def record_done(self, found: Iterable[tuple[int, JobOutcome]]) -> None:
        """Record, by their numbers, that jobs were done before."""
        self._db.executemany(
            "UPDATE jobs SET status = ?, outcome = ?, pictures = ?, cost_usd = ? WHERE number = ?",
            (
                (one.status, OUTCOME.dump_json(one), len(one.outputs), one.cost_usd, number)
                for number, one in found
            ),
        )

    # -- outcomes -----------------------------------------------------------------------------------

    def record(self, key: str, outcome: JobOutcome) -> list[ReportRow]:
        """Record a job's outcome and return its rows of the report."""
        self._db.execute(
            "UPDATE jobs SET status = ?, outcome = ?, pictures = ?, cost_usd = ?, seconds = ?,"
            " error_type = ?, retryable = ?, warnings = ?, flagged = ? WHERE key = ?",
            (
                outcome.status,
                OUTCOME.dump_json(outcome),
                len(outcome.outputs),
                outcome.cost_usd,
                outcome.seconds,
                outcome.error_type,
                outcome.retryable,
                " ".join(outcome.warnings),
                len(outcome.flagged),
                key,
            ),
        )
        return self.report.rows_of(key)

    def count_stored(self) -> int:
        """How many jobs are stored, by this run or earlier."""
        query = "SELECT count(*) FROM jobs WHERE status IN ('stored', 'done')"
        return int(self._db.execute(query).fetchone()[0])

    def stored_by_this_run(self, limit: int) -> list[tuple[Job, list[str]]]:
        """The first jobs that this run has stored, with the uris of their outputs."""
        query = "SELECT job, outcome FROM jobs WHERE status = 'stored' AND pictures ORDER BY number LIMIT ?"
        return [
            (Job.model_validate_json(job), OUTCOME.validate_json(outcome).outputs)
            for job, outcome in self._db.execute(query, (limit,))
        ]

    # -- thumbnails ---------------------------------------------------------------------------------

    def keep_thumbnail(self, key: str, number: int, jpeg: bytes) -> None:
        """Keep the thumbnail of a job's output, unless there are already more than a gallery shows."""
        if self._thumbnails >= _MAX_THUMBNAILS:
            return
        self._thumbnails += 1
        self._db.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?)", (key, number, jpeg))

    def has_source(self, key: str) -> bool:
        """Whether there is a thumbnail of a job's source."""
        query = "SELECT 1 FROM thumbnails WHERE job_key = ? AND position = ?"
        return self._db.execute(query, (key, SOURCE_POSITION)).fetchone() is not None

    def keep_source(self, key: str, jpeg: bytes) -> None:
        """Keep the thumbnail of a job's source."""
        self.keep_thumbnail(key, SOURCE_POSITION, jpeg)
