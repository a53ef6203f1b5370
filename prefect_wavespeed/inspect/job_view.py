"""Everything that an output holds about a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.inspect.listing import ListedJob, Status
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.ledger.records import Claim, DeadLetter, Metadata, OpenJob, Record
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode


@dataclass(frozen=True)
class JobView:
    """A job as it is stored.

    Attributes:
        status: open, failed (for good) or done.
        key: of the job; only the first 16 characters if its side-car is unreadable.
        at: when it was stored or failed; for an open job, when its newest object was written.
        path: of its side-car or its dead letter, or its folder below ``open/``.
        metadata: the side-car of a done job.
        letter: its dead letter. An open job may have one: it was taken up again.
        open_job: attempt numbers of an open job.
        claims: of an open job, by attempt.
        records: of an open job's predictions, by attempt.
        errors: what went wrong last with attempts of an open job, by attempt.
        candidates: ids of the predictions that may be its newest attempt's, where the API did not tell.
        unreadable: its side-car or dead letter was written by another version.
    """

    status: Status
    key: str
    at: datetime
    path: str
    metadata: Metadata | None = None
    letter: DeadLetter | None = None
    open_job: OpenJob = field(default_factory=OpenJob)
    claims: dict[int, Claim] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    candidates: list[str] = field(default_factory=list)
    unreadable: bool = False

    @property
    def claim(self) -> Claim | None:
        """The newest claim of an open job."""
        return self.claims[max(self.claims)] if self.claims else None

    @property
    def source(self) -> str | None:
        """URI of its source, without anything secret."""
        if closed := self.metadata or self.letter:
            return closed.source.uri
        return self.claim.job.source.uri if self.claim else None

    @property
    def is_doubtful(self) -> bool:
        """Whether a person must find out if its newest attempt was submitted."""
        latest = self.open_job.latest
        return bool(self.candidates) and latest not in self.records and latest not in self.open_job.ruled_out

    @property
    def prediction_ids(self) -> set[str]:
        """Ids of all its predictions, failed ones included."""
        ids = {record.prediction_id for record in self.records.values()}
        for closed in (self.metadata, self.letter):
            if closed:
                ids |= {attempt.prediction_id for attempt in closed.attempts if attempt.prediction_id}
        if self.metadata:
            ids.add(self.metadata.prediction.id)
        if self.letter and self.letter.error.prediction_id:
            ids.add(self.letter.error.prediction_id)
        return ids


async def read_job(ledger: Ledger, listed: ListedJob) -> JobView | None:
    """Read what is stored about a listed job; None if it has been moved since.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
    """
    try:
        if listed.status == "done":
            return await _read_done(ledger, listed)
        return await _read_unfinished(ledger, listed)
    except StoreError as error:
        if error.retryable:
            raise
        return JobView(listed.status, listed.key, listed.at, listed.path, unreadable=True)


async def _read_done(ledger: Ledger, listed: ListedJob) -> JobView | None:
    data = await ledger.store.get(listed.path)
    if data is None:
        return None
    metadata = decode(data, Metadata, ledger.store.uri_of(listed.path))
    return JobView("done", metadata.job_key, metadata.times.stored, listed.path, metadata=metadata)


async def _read_unfinished(ledger: Ledger, listed: ListedJob) -> JobView | None:
    """Read an open or a failed job. One that was taken up again after its dead letter is open."""
    key = listed.key
    open_job, letter = await ledger.open_job(key), await ledger.dead_letter(key)
    claims = {n: claim for n in open_job.claimed if (claim := await ledger.read_claim(key, n))}
    records = {n: record for n in open_job.recorded if (record := await ledger.read_record(key, n))}
    if claims and (metadata := await ledger.side_car(job := claims[max(claims)].job)):
        path = layout.metadata(job.name)
        return JobView("done", key, metadata.times.stored, path, metadata=metadata)
    if letter and letter.last_attempt >= open_job.latest:
        return JobView("failed", key, letter.failed_at, layout.dead_letter(key), letter=letter)
    if not open_job.latest:
        return None
    return JobView(
        "open",
        key,
        max((*open_job.claimed.values(), *open_job.recorded.values())),
        layout.open_job(key).rstrip("/"),
        letter=letter,
        open_job=open_job,
        claims=claims,
        records=records,
        errors={n: error for n in open_job.errors if (error := await ledger.read_error(key, n))},
        candidates=await ledger.read_candidates(key, max(open_job.doubtful)) if open_job.doubtful else [],
    )
