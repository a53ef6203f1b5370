"""What a batch is to do and what became of it: its rows, its distinct jobs and their outcomes.

Kept in SQLite's private temporary database, which spills to disk and is gone with the process: a million
rows need no more memory than a thousand, and nothing signed is left lying about.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from prefect_wavespeed.batch.manifest import BadRow, Row
from prefect_wavespeed.batch.report import AccountRow, Status, Thumbs
from prefect_wavespeed.batch.shards import lot
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import price_key

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE rows (n INTEGER PRIMARY KEY, id TEXT, image TEXT, key TEXT, reason TEXT, error TEXT);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE, kind TEXT, job TEXT, row INTEGER, rows INTEGER DEFAULT 1,
    status TEXT DEFAULT 'unsubmitted', outcome TEXT, seconds REAL, pictures INTEGER DEFAULT 0, cost REAL,
    error TEXT, unbilled TEXT, lot INTEGER
);
CREATE INDEX rows_by_key ON rows (key);
CREATE TABLE thumbs (key TEXT, place INTEGER, picture BLOB, PRIMARY KEY (key, place));
"""
_ACCOUNT = (
    "SELECT rows.n, rows.id, rows.image, rows.key, rows.reason, rows.error, jobs.status,"
    " jobs.job, jobs.outcome, jobs.row FROM rows LEFT JOIN jobs ON rows.key = jobs.key"
)
_MOST_THUMBS = 40_000
_SOURCE = -1  # place of the source's thumbnail; the outputs' are 0, 1, …


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job, for all rows that ask for it."""

    status: Status
    prediction_id: str | None = None
    outputs: list[str] = field(default_factory=list)
    metadata_uri: str | None = None
    cost_usd: float | None = None
    attempts: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    seconds: float | None = None


_OUTCOME = TypeAdapter(JobOutcome)


class JobTable:
    """The rows of a batch and its jobs, numbered from 1 in the order of their first rows."""

    def __init__(self) -> None:
        # "": private, on disk, unlinked at once; the account is written from a thread
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self.rows = 0
        self.jobs = 0
        self.bad: Counter[Status] = Counter()  # rows for which nothing can be done
        self._pictures = 0

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def add(self, row: Row, job: Job) -> None:
        """Add a row. The same job asked for twice is one job."""
        self.rows += 1
        self._db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, NULL, NULL)", (row.number, row.id, job.source.uri, job.key)
        )
        again = self._db.execute("UPDATE jobs SET rows = rows + 1 WHERE key = ?", (job.key,)).rowcount
        if not again:
            self.jobs += 1
            self._db.execute(
                "INSERT INTO jobs (number, key, kind, job, row, lot) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self.jobs,
                    job.key,
                    str(price_key(job.params)),
                    job.model_dump_json(),
                    row.number,
                    lot(row.shown),
                ),
            )

    def reject(self, row: BadRow) -> None:
        """Add a row that asks for nothing that can be done."""
        self.rows += 1
        self.bad[row.status] += 1
        self._db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, NULL, ?, ?)",
            (row.number, row.id, row.image, row.reason, row.error),
        )

    def rejected(self, most: int) -> list[BadRow]:
        """The first rows that were rejected."""
        query = "SELECT n, reason, id, image, error FROM rows WHERE reason IS NOT NULL ORDER BY n LIMIT ?"
        return [BadRow(*found) for found in self._db.execute(query, (most,))]

    def between(self, first: int, last: int) -> Iterator[Job]:
        """The jobs with these numbers of which it is not known yet what becomes of them."""
        query = "SELECT job FROM jobs WHERE number = ? AND outcome IS NULL"
        for number in range(first, last + 1):
            for (text,) in self._db.execute(query, (number,)).fetchall():
                yield Job.model_validate_json(text)

    def left(self, first: int, last: int) -> bool:
        """Whether there is any of these jobs of which it is not known yet what becomes of them."""
        query = "SELECT 1 FROM jobs WHERE number BETWEEN ? AND ? AND outcome IS NULL LIMIT 1"
        return self._db.execute(query, (first, last)).fetchone() is not None

    def not_billed(self, key: str, why: Literal["open", "failed"]) -> None:
        """Remember that a job will not be billed any more: its prediction is under way, or it has failed."""
        self._db.execute("UPDATE jobs SET unbilled = ? WHERE key = ?", (why, key))

    def unbilled(self, why: Literal["open", "failed"]) -> int:
        """How many jobs will not be billed any more for that reason."""
        query = "SELECT count(*) FROM jobs WHERE outcome IS NULL AND unbilled = ?"
        return int(self._db.execute(query, (why,)).fetchone()[0])

    def kinds(self) -> Iterator[tuple[Job, int]]:
        """A job of each kind that has a price of its own, and how many like it are to be billed."""
        return ((job, count) for job, count, _ in self.kinds_by_shard(1))

    def kinds_by_shard(self, of: int) -> Iterator[tuple[Job, int, int]]:
        """The same for each of so many shards, with the shard's number, from 1."""
        query = (
            "SELECT job, count(*), lot % ? + 1 AS shard FROM jobs WHERE outcome IS NULL AND unbilled IS NULL"
            " GROUP BY shard, kind"
        )
        for text, count, shard in self._db.execute(query, (of,)).fetchall():
            yield Job.model_validate_json(text), count, shard

    def keys_of_shard(self, number: int, of: int) -> Iterator[str]:
        """Keys of a shard's jobs of which it is not known yet what becomes of them."""
        query = "SELECT key FROM jobs WHERE outcome IS NULL AND lot % ? = ? ORDER BY number"
        return (key for (key,) in self._db.execute(query, (of, number - 1)))

    def done(self) -> int:
        """How many jobs are stored."""
        query = "SELECT count(*) FROM jobs WHERE status IN ('stored', 'done')"
        return int(self._db.execute(query).fetchone()[0])

    def settle(self, key: str, outcome: JobOutcome) -> list[AccountRow]:
        """Write down what became of a job, and return its rows of the account."""
        self._db.execute(
            "UPDATE jobs SET status = ?, outcome = ?, seconds = ?, pictures = ?, cost = ?, error = ?"
            " WHERE key = ?",
            (
                outcome.status,
                _OUTCOME.dump_json(outcome),
                outcome.seconds,
                len(outcome.outputs),
                outcome.cost_usd,
                outcome.error_type,
                key,
            ),
        )
        return [row for row, _ in self._account("WHERE rows.key = ?", key)]

    def keep_thumbnail(self, key: str, index: int, picture: bytes) -> None:
        """Keep a small picture of an output, as long as there are not more than a gallery shows."""
        if self._pictures >= _MOST_THUMBS:
            return
        self._pictures += 1
        self._db.execute("INSERT OR REPLACE INTO thumbs VALUES (?, ?, ?)", (key, index, picture))

    def keep_source(self, key: str, picture: bytes) -> None:
        """Keep a small picture of a job's source."""
        self.keep_thumbnail(key, _SOURCE, picture)

    def account(self) -> Iterator[tuple[AccountRow, Thumbs | None]]:
        """All rows in their options, with small pictures of those that have any."""
        for row, key in self._account(""):
            yield row, self._thumbs(key)

    def failures(self, most: int) -> list[AccountRow]:
        """The first rows that came to nothing."""
        where = "WHERE jobs.status IN ('failed', 'open') OR rows.error IS NOT NULL LIMIT ?"
        return [row for row, _ in self._account(where, most)]

    def pairs(self, most: int) -> list[tuple[AccountRow, Thumbs]]:
        """The first rows with small pictures."""
        found = self._account("WHERE rows.key IN (SELECT key FROM thumbs) LIMIT ?", most)
        return [(row, self._thumbs(key) or Thumbs()) for row, key in found]

    def shard_of(self, key: str, of: int) -> int:
        """The number of the shard, of so many, that a job belongs to."""
        query = "SELECT lot % ? + 1 FROM jobs WHERE key = ?"
        return int(self._db.execute(query, (of, key)).fetchone()[0])

    def stopped(self) -> AccountRow | None:
        """The first row that was not submitted because submitting had stopped; it tells why."""
        where = "WHERE jobs.status = 'unsubmitted' AND jobs.error IS NOT NULL LIMIT 1"
        return next((row for row, _ in self._account(where)), None)

    def made(self, most: int) -> list[tuple[Job, list[str]]]:
        """The first jobs that this run has stored, and their outputs."""
        query = "SELECT job, outcome FROM jobs WHERE status = 'stored' AND pictures ORDER BY number LIMIT ?"
        return [
            (Job.model_validate_json(text), _OUTCOME.validate_json(told).outputs)
            for text, told in self._db.execute(query, (most,))
        ]

    def known(self) -> dict[Status, int]:
        """How many rows there are of each status, of those of which it is known what became of them."""
        query = "SELECT status, sum(rows) FROM jobs WHERE outcome IS NOT NULL GROUP BY status"
        return self._with_bad(query)

    def counts(self) -> dict[Status, int]:
        """How many rows there are of each status."""
        return self._with_bad("SELECT status, sum(rows) FROM jobs GROUP BY status")

    def _with_bad(self, query: str) -> dict[Status, int]:
        return dict(Counter(dict(self._db.execute(query).fetchall())) + self.bad)

    def errors(self) -> dict[str, int]:
        """How many rows came to nothing by each error."""
        query = (
            "SELECT error, sum(count) FROM ("
            "SELECT error, rows AS count FROM jobs WHERE error IS NOT NULL AND status IN ('failed', 'open')"
            " UNION ALL SELECT error, 1 FROM rows WHERE error IS NOT NULL"
            ") GROUP BY error ORDER BY 2 DESC"
        )
        return dict(self._db.execute(query).fetchall())

    def stored(self) -> tuple[int, float]:
        """Pictures stored by this run, and what it has paid in USD for all that was stored or submitted."""
        pictures = "SELECT coalesce(sum(pictures), 0) FROM jobs WHERE status = 'stored'"
        paid = "SELECT coalesce(sum(cost), 0) FROM jobs"
        return self._db.execute(pictures).fetchone()[0], self._db.execute(paid).fetchone()[0]

    def latency(self, share: float) -> float | None:
        """Seconds from submission to storing that this share of the jobs took at most."""
        there = "FROM jobs WHERE status = 'stored' AND seconds IS NOT NULL"
        (count,) = self._db.execute(f"SELECT count(*) {there}").fetchone()
        if not count:
            return None
        query = f"SELECT seconds {there} ORDER BY seconds LIMIT 1 OFFSET ?"
        (seconds,) = self._db.execute(query, (min(count - 1, int(share * count)),)).fetchone()
        return float(seconds)

    def _account(self, where: str, *values: object) -> Iterator[tuple[AccountRow, str | None]]:
        query = f"{_ACCOUNT} {where}" + ("" if "LIMIT" in where else " ORDER BY rows.n")
        for n, name, image, key, reason, error, status, text, told, first in self._db.execute(query, values):
            if text is None:
                yield _rejected(BadRow(n, reason, name, image, error)), None
            else:
                yield _row(n, name, image, status, text, told, first=n == first), key

    def _thumbs(self, key: str | None) -> Thumbs | None:
        query = "SELECT place, picture FROM thumbs WHERE key = ? ORDER BY place"
        found = dict(self._db.execute(query, (key,)).fetchall())
        source = found.pop(_SOURCE, None)
        return Thumbs(source, list(found.values())) if source or found else None


def _rejected(row: BadRow) -> AccountRow:
    return AccountRow(
        row=row.number,
        id=row.id,
        image=row.image or "",
        status=row.status,
        error_type=row.error or "BadRow",
        error_message=row.reason,
    )


def _row(
    n: int,
    name: str | None,
    image: str | None,
    status: Status,
    text: str,
    told: bytes | None,
    *,
    first: bool,
) -> AccountRow:
    job = Job.model_validate_json(text)
    outcome = _OUTCOME.validate_json(told) if told else JobOutcome("unsubmitted")
    return AccountRow(
        row=n,
        id=name,
        image=image or "",
        status=status,
        variant=job.variant,
        job_key=job.key,
        prediction_id=outcome.prediction_id,
        seed=job.seed,
        outputs=outcome.outputs,
        metadata_uri=outcome.metadata_uri,
        # a job that several rows ask for is paid once
        cost_usd=outcome.cost_usd if first or not outcome.cost_usd else 0.0,
        attempts=outcome.attempts,
        error_type=outcome.error_type,
        error_message=outcome.error_message,
        seconds=outcome.seconds,
    )
