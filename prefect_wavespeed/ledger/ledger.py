"""The ledger on one store: who may submit a job, its predictions, and how it ended.

A job's objects (``storage/layout.py`` has their paths) are each written once, by a create-if-absent put. Only
a dead letter is replaced, by that of a later attempt; a list of candidates grows, and the note of what went
wrong with an attempt is replaced. What may be done when
is decided in ``rules.py``; this file reads and writes.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json

from prefect_wavespeed import metrics
from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.records import (
    AttemptError,
    Candidates,
    Claim,
    DeadLetter,
    Metadata,
    NotSubmitted,
    OpenJob,
    Record,
)
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode
from prefect_wavespeed.storage.store import Store

# Where a side-car and a dead letter name their last prediction.
_NEWEST = (("prediction", "id"), ("error", "prediction_id"))

_Model = TypeVar("_Model", bound=BaseModel)


class Look(NamedTuple):
    """What one look finds of a job."""

    side_car: Metadata | None
    letter: DeadLetter | None
    open_job: OpenJob


class Ledger:
    """The ledger on one store. Every method raises StoreError when the store cannot be used now."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def look(self, job: Job) -> Look:
        """Read the side-car, the dead letter and the open attempts of a job, at once."""
        if self.store.is_immediate:
            return Look(
                await self.side_car(job), await self.dead_letter(job.key), await self.open_job(job.key)
            )
        return Look(
            *await asyncio.gather(self.side_car(job), self.dead_letter(job.key), self.open_job(job.key))
        )

    async def side_car(self, job: Job) -> Metadata | None:
        """The job's side-car: it exists, so the job is done."""
        return await self._read(layout.metadata(job.name), Metadata)

    async def dead_letter(self, key: str) -> DeadLetter | None:
        """The job's dead letter: it exists, so the job has failed for good."""
        return await self._read(layout.dead_letter(key), DeadLetter)

    async def open_job(self, key: str) -> OpenJob:
        """List the attempts of an unfinished job."""
        job = OpenJob()
        for entry in await self.store.list(layout.open_job(key)):
            match layout.parse_open(entry.path):
                case (_, attempt, "claim"):
                    job.claimed[attempt] = entry.last_modified
                case (_, attempt, "prediction"):
                    job.recorded[attempt] = entry.last_modified
                case (_, attempt, "candidates"):
                    job.doubtful.add(attempt)
                case (_, attempt, "not-submitted"):
                    job.ruled_out.add(attempt)
                case (_, attempt, "error"):
                    job.errors.add(attempt)
        return job

    async def read_claim(self, key: str, attempt: int) -> Claim | None:
        """An attempt's claim; None when it is gone."""
        return await self._read(layout.claim(key, attempt), Claim)

    async def read_record(self, key: str, attempt: int) -> Record | None:
        """An attempt's prediction; None when none is recorded, or the job was closed meanwhile."""
        return await self._read(layout.prediction(key, attempt), Record)

    async def claim(self, key: str, attempt: int, claim: Claim) -> bool:
        """Create the claim of an attempt, if there is none.

        Returns:
            Whether it is ours: created now, or by a put of ours whose answer was lost.
        """
        if await self.store.create(layout.claim(key, attempt), _compact(claim)):
            return True
        existing = await self.read_claim(key, attempt)
        return existing is not None and existing.nonce == claim.nonce

    async def release(self, key: str, attempt: int) -> None:
        """Remove a claim of our own under which nothing was sent.

        The request is sent once: repeated, it could meet a claim that another runner has made since.
        """
        await self.store.delete([layout.claim(key, attempt)], once=True)

    async def record(self, key: str, attempt: int, record: Record) -> Record:
        """Record an attempt's prediction.

        Returns:
            What the ledger holds: this record, or the one that another runner wrote first.

        Raises:
            StoreError: it cannot be written now.
        """
        for _ in range(3):  # S3 may refuse a put (409) while something else happens to the object
            if await self.store.create(layout.prediction(key, attempt), _compact(record)):
                return record
            if existing := await self.read_record(key, attempt):
                return existing
        raise StoreError(
            "the prediction could not be recorded: run the job again",
            job_key=key,
            prediction_id=record.prediction_id,
        )

    async def note_candidates(self, key: str, attempt: int, prediction_ids: list[str]) -> None:
        """Keep which predictions may be an attempt's, for a person to look into, beside those of before."""
        all_ids = dict.fromkeys([*await self.read_candidates(key, attempt), *prediction_ids])
        note = Candidates(prediction_ids=list(all_ids), found_at=now())
        await self.store.put(layout.candidates(key, attempt), _compact(note), "application/json")

    async def read_candidates(self, key: str, attempt: int) -> list[str]:
        """The predictions that may be an attempt's; empty where there is no doubt."""
        note = await self._read(layout.candidates(key, attempt), Candidates)
        return note.prediction_ids if note else []

    async def note_error(self, key: str, attempt: int, message: str) -> None:
        """Keep what went wrong last with an attempt, for people to read."""
        note = AttemptError(message=message, noted_at=now())
        await self.store.put(layout.error(key, attempt), _compact(note), "application/json")

    async def read_error(self, key: str, attempt: int) -> str | None:
        """What went wrong last with an attempt; None where nothing is noted."""
        note = await self._read(layout.error(key, attempt), AttemptError)
        return note.message if note else None

    async def rule_out(self, key: str, attempt: int) -> None:
        """Record that nothing was submitted up to an attempt, beyond what is recorded."""
        await self.store.create(layout.not_submitted(key, attempt), _compact(NotSubmitted(found_at=now())))

    async def prediction_ids(self, path: str) -> frozenset[str]:
        """The predictions that a record, a side-car or a dead letter names."""
        data = await self.store.get(path)
        return frozenset() if data is None else _ids(data)

    async def finish(self, job: Job, side_car: Metadata, object_metadata: dict[str, str]) -> Metadata:
        """Write the side-car: from here on the job is done.

        Returns:
            The side-car that exists: this one, or that of a runner that was faster.

        Raises:
            StoreError: none exists although the store refused this one, as S3 may (409) while something else
                happens to the object. The job is not done, so it must not be closed.
        """
        path = layout.metadata(job.name)
        if await self.store.create(path, _readable(side_car), metadata=object_metadata):
            codes = [warning.code for warning in side_car.warnings]
            metrics.stored(side_car.times.claimed, side_car.times.stored, codes)
            return side_car
        if existing := await self._read(path, Metadata):
            return existing
        raise StoreError(f"{self.store.uri_of(path)} could not be written: run the job again")

    async def bury(self, letter: DeadLetter) -> DeadLetter:
        """Write the dead letter, unless one of the same or a later attempt exists.

        Returns:
            The one that exists.
        """
        path, data = layout.dead_letter(letter.job_key), _readable(letter)
        if not await self.store.create(path, data):
            existing = await self.dead_letter(letter.job_key)
            if existing and existing.last_attempt >= letter.last_attempt:
                return existing
            await self.store.put(path, data, "application/json")
        metrics.FAILED.inc()
        return letter

    async def close(self, key: str, open_job: OpenJob, last_attempt: int, *, done: bool) -> None:
        """Remove the claims and records of a job that has ended, of those attempts that the caller knows.

        In a batch, those of many jobs together. What is left by a runner that is killed before is harmless.

        Args:
            key: the job.
            open_job: its attempts as they were seen.
            last_attempt: leave later ones alone.
            done: the job has its side-car, so an earlier dead letter is removed as well.
        """
        paths = [layout.claim(key, n) for n in open_job.claimed if n <= last_attempt]
        paths += [layout.prediction(key, n) for n in open_job.recorded if n <= last_attempt]
        paths += [layout.candidates(key, n) for n in open_job.doubtful if n <= last_attempt]
        paths += [layout.not_submitted(key, n) for n in open_job.ruled_out if n <= last_attempt]
        paths += [layout.error(key, n) for n in open_job.errors if n <= last_attempt]
        if done and last_attempt:
            paths.append(layout.dead_letter(key))
        if paths:
            await self.store.removals.remove(paths)

    async def _read(self, path: str, model: type[_Model]) -> _Model | None:
        data = await self.store.get(path)
        return None if data is None else decode(data, model, self.store.uri_of(path))


def _ids(data: bytes) -> frozenset[str]:
    """The ids in a record, a side-car or a dead letter; none where it cannot be read, which leaves doubt."""
    try:
        held = from_json(data)
        attempts = [attempt.get("prediction_id") for attempt in held.get("attempts", [])]
        newest = [(held.get(name) or {}).get(field) for name, field in _NEWEST]
        return frozenset(
            each for each in (held.get("prediction_id"), *attempts, *newest) if isinstance(each, str)
        )
    except (ValueError, AttributeError, TypeError):
        return frozenset()


def now() -> datetime:
    """This machine's time: for people to read, never to decide by."""
    return datetime.now(UTC)


def _compact(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def _readable(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=2).encode() + b"\n"
