"""The rows of a batch, its distinct jobs and their outcomes.

Kept in SQLite's private temporary database, which spills to disk and disappears with the process: a million
rows need no more memory than a thousand, and no signed URL is left on disk.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.carried import ColumnTypes
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.batch.outcome import JobOutcome, Status
from prefect_wavespeed.batch.report.query import OUTCOME, SOURCE_POSITION, JobReport
from prefect_wavespeed.batch.report.rows import ReportRow
from prefect_wavespeed.batch.shards import lot
from prefect_wavespeed.job import Job, Source
from prefect_wavespeed.storage.scratch import sqlite_error

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536; -- KB: holds the index of a million keys, which come in no order
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, id TEXT, image TEXT, job INTEGER, reason TEXT, error_type TEXT, carried TEXT
);
CREATE INDEX rows_by_job ON rows (job);
-- What a price may depend on: all parameters but the seed.
CREATE TABLE params (number INTEGER PRIMARY KEY, params TEXT UNIQUE);
-- A job's source has the uri that is the image of the job's first row; identity, location: NULL where they
-- are the same;
-- outcome: NULL until the job has ended; unbilled: why it will not be billed any more;
-- seen: 'new' if the store held nothing of the job, 'done' if its side-car and nothing open or failed,
-- 'known' if something else
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, key BLOB UNIQUE, first_row INTEGER, row_count INTEGER DEFAULT 1,
    identity TEXT, source_name TEXT, location TEXT, sha256 TEXT,
    params INTEGER, seed INTEGER, variant INTEGER, name TEXT, num_images INTEGER, lot INTEGER,
    unbilled TEXT, seen TEXT,
    status TEXT DEFAULT 'unsubmitted', outcome TEXT, pictures INTEGER DEFAULT 0, cost_usd REAL,
    seconds REAL, error_type TEXT, retryable INTEGER, warnings TEXT DEFAULT '',
    flagged INTEGER DEFAULT 0
);
CREATE TABLE thumbnails (job INTEGER, position INTEGER, jpeg BLOB, PRIMARY KEY (job, position));
"""
_ADD_JOB = (
    "INSERT INTO jobs (key, first_row, identity, source_name, location, sha256, params, seed, variant, name,"
    " num_images, lot) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET row_count = row_count + 1"
)
_ADD_ROW = (
    "INSERT INTO rows (number, id, image, job, carried)"
    " VALUES (?, ?, ?, (SELECT number FROM jobs WHERE key = ?), ?)"
)
_ADD_BAD_ROW = "INSERT INTO rows (number, id, image, reason, error_type, carried) VALUES (?, ?, ?, ?, ?, ?)"
_JOBS = (
    "SELECT jobs.number, rows.image, identity, source_name, location, sha256, params, seed, variant"
    " FROM jobs JOIN rows ON rows.number = jobs.first_row"
)
_STORED = _JOBS.replace("SELECT", "SELECT outcome,", 1)
_PARAMS = 1_000  # kept in memory
_MAX_THUMBNAILS = 40_000
_CACHE_KB = 16 * 1024  # while jobs are carried out and reported


class NamedJob(NamedTuple):
    """What a listing is searched for.

    Attributes:
        number: of the job in the batch.
        name: the job's.
        num_images: how many pictures it asks for.
        is_known: the store is known to hold something of it.
    """

    number: int
    name: str
    num_images: int
    is_known: bool


class _Database(sqlite3.Connection):
    """Says what to do when its temporary file does not fit on the disk."""

    def execute(self, *args: Any) -> sqlite3.Cursor:
        return _explained(super().execute, *args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        return _explained(super().executemany, *args)

    def executescript(self, *args: Any) -> sqlite3.Cursor:
        return _explained(super().executescript, *args)


def _explained(call: Callable[..., sqlite3.Cursor], *args: Any) -> sqlite3.Cursor:
    try:
        return call(*args)
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
        self._params_number = lru_cache(_PARAMS)(self._find_params_number)
        self._params = lru_cache(_PARAMS)(self._find_params)

    def close(self) -> None:
        """Delete it all."""
        self._db.close()

    # -- rows ---------------------------------------------------------------------------------------

    def add(self, rows: Iterable[tuple[Row, Job]]) -> None:
        """Add rows with their jobs. A job that several rows ask for is one job."""
        jobs, asking = [], []
        for row, job in rows:
            source, key, params = job.source, bytes.fromhex(job.key), job.params
            identity, location = (
                None if text == source.uri else text for text in (source.identity, source.location)
            )
            its_source = identity, source.name, location, source.sha256
            its_params = self._params_number(_unseeded(params)), params.seed, job.variant
            jobs.append(
                (key, row.number, *its_source, *its_params, job.name, params.num_images, lot(row.safe_image))
            )
            asking.append((row.number, row.id, source.uri, key, self._carry(row)))
        self._db.executemany(_ADD_JOB, jobs)
        self._db.executemany(_ADD_ROW, asking)
        self.row_count += len(asking)
        (self.job_count,) = self._db.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()

    def add_bad(self, rows: Iterable[BadRow]) -> None:
        """Add rows that cannot be used."""
        added = []
        for row in rows:
            self.bad_rows[row.status] += 1
            added.append((row.number, row.id, row.image, row.reason, row.error_type, self._carry(row)))
        self._db.executemany(_ADD_BAD_ROW, added)
        self.row_count += len(added)

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

    # -- jobs ---------------------------------------------------------------------------------------

    def _each_job(self, condition: str, first: int = 1, last: int | None = None) -> Iterator[Job]:
        """The jobs with these numbers that meet a condition when it is their turn."""
        query = f"{_JOBS} WHERE jobs.number BETWEEN ? AND ? AND {condition} ORDER BY jobs.number LIMIT 1"
        last = self.job_count if last is None else last
        while found := self._db.execute(query, (first, last)).fetchone():
            first = found[0] + 1
            yield self._job(found)

    def _job(self, columns: Sequence[Any]) -> Job:
        _, uri, identity, name, location, sha256, params, seed, variant = columns
        source = Source(uri=uri, identity=identity or uri, name=name, location=location or uri, sha256=sha256)
        return Job(source=source, params=_seeded(self._params(params), seed), variant=variant)

    def _find_params_number(self, params: ReduxParams) -> int:
        as_json = params.model_dump_json()
        self._db.execute("INSERT OR IGNORE INTO params (params) VALUES (?)", (as_json,))
        query = "SELECT number FROM params WHERE params = ?"
        return int(self._db.execute(query, (as_json,)).fetchone()[0])

    def _find_params(self, number: int) -> ReduxParams:
        query = "SELECT params FROM params WHERE number = ?"
        return ReduxParams.model_validate_json(self._db.execute(query, (number,)).fetchone()[0])

    # -- jobs without an outcome --------------------------------------------------------------------

    def unfinished(self, first: int = 1, last: int | None = None) -> Iterator[Job]:
        """The jobs with these numbers, by default all, that have no outcome when it is their turn."""
        return self._each_job("outcome IS NULL", first, last)

    def has_unfinished(self, first: int, last: int) -> bool:
        """Whether any of the jobs with these numbers has no outcome."""
        query = "SELECT 1 FROM jobs WHERE number BETWEEN ? AND ? AND outcome IS NULL LIMIT 1"
        return self._db.execute(query, (first, last)).fetchone() is not None

    def mark_unbilled(self, key: str, why: Literal["open", "failed"]) -> None:
        """Note that a job will not be billed any more: its prediction exists, or it has failed for good."""
        self._db.execute("UPDATE jobs SET unbilled = ? WHERE key = ?", (why, bytes.fromhex(key)))

    def count_unbilled(self, why: Literal["open", "failed"]) -> int:
        """How many jobs without an outcome will not be billed any more for that reason."""
        query = "SELECT count(*) FROM jobs WHERE outcome IS NULL AND unbilled = ?"
        return int(self._db.execute(query, (why,)).fetchone()[0])

    def billable(self, shards: int = 1) -> Iterator[tuple[Job, int, int]]:
        """The jobs still to be billed, by price and by shard: one of them, how many, the shard's number."""
        query = (
            "SELECT min(number), count(*), lot % ? + 1 AS shard FROM jobs"
            " WHERE outcome IS NULL AND unbilled IS NULL GROUP BY shard, params"
        )
        for number, count, shard in self._db.execute(query, (shards,)).fetchall():
            (columns,) = self._db.execute(f"{_JOBS} WHERE jobs.number = ?", (number,))
            yield self._job(columns), count, shard

    def jobs_of_shard(self, number: int, shards: int) -> Iterator[tuple[str, bool]]:
        """Keys of a shard's jobs that have no outcome, each with whether the store held nothing of it."""
        query = "SELECT key, seen IS 'new' FROM jobs WHERE outcome IS NULL AND lot % ? = ? ORDER BY number"
        return ((key.hex(), bool(is_new)) for key, is_new in self._db.execute(query, (shards, number - 1)))

    def shard_of(self, key: str, shards: int) -> int:
        """The number of the shard, of so many, that a job belongs to."""
        query = "SELECT lot % ? + 1 FROM jobs WHERE key = ?"
        return int(self._db.execute(query, (shards, bytes.fromhex(key))).fetchone()[0])

    def shrink(self) -> None:
        """Give memory back once all jobs are known: from here on they are gone through in their order."""
        # as a script, which commits first: only pages that are written can be given back
        self._db.executescript(f"PRAGMA cache_size = -{_CACHE_KB}; PRAGMA shrink_memory;")

    # -- the survey ---------------------------------------------------------------------------------

    def jobs_by_key(self) -> Iterator[tuple[int, str]]:
        """Numbers and keys of the jobs without an outcome, sorted by key."""
        # "+": sorts them. To read a million rows in the order of an index is to read the disk as often.
        query = "SELECT number, key FROM jobs WHERE outcome IS NULL ORDER BY +key"
        return ((number, key.hex()) for number, key in self._db.execute(query))

    def jobs_by_name(self) -> Iterator[NamedJob]:
        """The jobs without an outcome, in the order of their folders in a listing."""
        query = (
            "SELECT number, name, num_images, seen IS 'known' FROM jobs WHERE outcome IS NULL"
            " ORDER BY name || '/'"
        )
        return map(NamedJob._make, self._db.execute(query))

    def unsurveyed(self, first: int, last: int, *, done: bool) -> Iterator[Job]:
        """The jobs with these numbers without an outcome: those that are done, or all that need a look."""
        seen = "seen IS 'done'" if done else "seen IS NOT 'new' AND seen IS NOT 'done'"
        return self._each_job(f"outcome IS NULL AND {seen}", first, last)

    def is_new(self, key: str) -> bool:
        """Whether the store held nothing of a job."""
        query = "SELECT seen IS 'new' FROM jobs WHERE key = ?"
        return bool(self._db.execute(query, (bytes.fromhex(key),)).fetchone()[0])

    def mark_known(self, numbers: Iterable[int]) -> None:
        """Note of which jobs the store holds something."""
        self._db.executemany("UPDATE jobs SET seen = 'known' WHERE number = ?", ((n,) for n in numbers))

    def mark_done(self, numbers: Iterable[int]) -> None:
        """Note which jobs have their side-car in the store, and nothing open or failed."""
        self._db.executemany("UPDATE jobs SET seen = 'done' WHERE number = ?", ((n,) for n in numbers))

    def mark_new(self, key: str) -> None:
        """Note that the store holds nothing of a job."""
        self._db.execute("UPDATE jobs SET seen = 'new' WHERE key = ?", (bytes.fromhex(key),))

    def mark_rest_new(self, first: int, last: int) -> None:
        """Note that the store holds nothing of those jobs with these numbers that were not found."""
        self._db.execute(
            "UPDATE jobs SET seen = 'new' WHERE number BETWEEN ? AND ? AND outcome IS NULL AND seen IS NULL",
            (first, last),
        )

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
                bytes.fromhex(key),
            ),
        )
        return self.report.rows_of(key)

    def count_stored(self) -> int:
        """How many jobs are stored, by this run or earlier."""
        query = "SELECT count(*) FROM jobs WHERE status IN ('stored', 'done')"
        return int(self._db.execute(query).fetchone()[0])

    def stored_by_this_run(self, limit: int) -> list[tuple[Job, list[str]]]:
        """The first jobs that this run has stored, with the uris of their outputs."""
        query = f"{_STORED} WHERE status = 'stored' AND pictures ORDER BY jobs.number LIMIT ?"
        return [
            (self._job(columns), OUTCOME.validate_json(outcome).outputs)
            for outcome, *columns in self._db.execute(query, (limit,))
        ]

    # -- thumbnails ---------------------------------------------------------------------------------

    def keep_thumbnail(self, key: str, number: int, jpeg: bytes) -> None:
        """Keep the thumbnail of a job's output, unless there are already more than a gallery shows."""
        if self._thumbnails >= _MAX_THUMBNAILS:
            return
        self._thumbnails += 1
        query = "INSERT OR REPLACE INTO thumbnails SELECT number, ?, ? FROM jobs WHERE key = ?"
        self._db.execute(query, (number, jpeg, bytes.fromhex(key)))

    def wants_source(self, key: str) -> bool:
        """Whether a thumbnail of a job's source would be kept: there is none, and room for one."""
        if self._thumbnails >= _MAX_THUMBNAILS:
            return False
        query = "SELECT 1 FROM thumbnails JOIN jobs ON number = job WHERE key = ? AND position = ?"
        return self._db.execute(query, (bytes.fromhex(key), SOURCE_POSITION)).fetchone() is None

    def keep_source(self, key: str, jpeg: bytes) -> None:
        """Keep the thumbnail of a job's source."""
        self.keep_thumbnail(key, SOURCE_POSITION, jpeg)


def _unseeded(params: ReduxParams) -> ReduxParams:
    return params if params.seed == -1 else params.model_copy(update={"seed": -1})


def _seeded(params: ReduxParams, seed: int) -> ReduxParams:
    return params if seed == params.seed else params.model_copy(update={"seed": seed})
