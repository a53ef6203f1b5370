"""The ledger: who may submit a job, what came of it, and that it is done. On any Store.

A job's facts are objects, each written once and never edited:

- ``open/{key}/{n}.claim.json``: attempt *n* belongs to the runner whose nonce it holds.
- ``open/{key}/{n}.prediction.json``: attempt *n* is this prediction.
- ``images/{name}/metadata.json``: the job is done.
- ``failed/{key}.json``: the job failed for good.

Only the runner that created the newest claim may submit, and only while that claim is young; steps.py
keeps to that. Ages are told by the store's clock alone.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from prefect_wavespeed import metrics
from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.records import Claim, DeadLetter, Metadata, OpenJob, Record
from prefect_wavespeed.storage.store import Store

_FACT = re.compile(r"(\d+)\.(claim|prediction)\.json")
_Fact = TypeVar("_Fact", bound=BaseModel)


def metadata_path(job: Job) -> str:
    """Where the side-car of a job is."""
    return f"images/{job.name}/metadata.json"


class Ledger:
    """The ledger on one store. Every method raises StoreError when the store cannot be used now."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def done(self, job: Job) -> Metadata | None:
        """The job's side-car, when it is done."""
        return await self._read(metadata_path(job), Metadata)

    async def dead(self, key: str) -> DeadLetter | None:
        """The job's dead letter, when it failed for good."""
        return await self._read(_dead_path(key), DeadLetter)

    async def open(self, key: str) -> OpenJob:
        """What is there of an unfinished job."""
        job = OpenJob()
        for entry in await self.store.list(f"open/{key}/"):
            if match := _FACT.fullmatch(entry.path.rpartition("/")[2]):
                facts = job.claimed if match[2] == "claim" else job.recorded
                facts[int(match[1])] = entry.last_modified
        return job

    async def look(self, job: Job) -> tuple[Metadata | None, DeadLetter | None, OpenJob]:
        """All that there is of a job: ``done``, ``dead`` and ``open``, read at once."""
        if self.store.is_immediate:
            return await self.done(job), await self.dead(job.key), await self.open(job.key)
        return await asyncio.gather(self.done(job), self.dead(job.key), self.open(job.key))

    async def claim(self, key: str, attempt: int, claim: Claim) -> bool:
        """Try to own an attempt.

        Returns:
            Whether it is ours: created now, or by a put of ours whose answer was lost.
        """
        path = _path(key, attempt, "claim")
        if await self.store.create(path, _json(claim)):
            return True
        there = await self.claimed(key, attempt)
        return there is not None and there.nonce == claim.nonce

    async def claimed(self, key: str, attempt: int) -> Claim | None:
        """An attempt's claim; None when it is gone."""
        return await self._read(_path(key, attempt, "claim"), Claim)

    async def claimed_at(self, key: str, attempt: int) -> datetime | None:
        """When an attempt was claimed, by the store's clock; None when the claim is gone."""
        entry = await self.store.head(_path(key, attempt, "claim"))
        return entry.last_modified if entry else None

    async def release(self, key: str, attempt: int) -> None:
        """Give up a claim of ours of which nothing came.

        Asked once: a removal that is sent again could meet the claim that another runner made meanwhile.
        """
        await self.store.delete([_path(key, attempt, "claim")], once=True)

    async def record(self, key: str, attempt: int, record: Record) -> Record:
        """Write down an attempt's prediction.

        Returns:
            What the ledger holds: ours, or what another runner wrote first.
        """
        for _ in range(3):  # S3 may refuse a put (409) while something else happens to the object
            if await self.store.create(_path(key, attempt, "prediction"), _json(record)):
                return record
            if there := await self.recorded(key, attempt):
                return there
        raise StoreError(f"prediction {record.prediction_id} could not be recorded: run the job again")

    async def recorded(self, key: str, attempt: int) -> Record | None:
        """An attempt's prediction; None when none is recorded, or the job was closed meanwhile."""
        return await self._read(_path(key, attempt, "prediction"), Record)

    async def finish(self, job: Job, metadata: Metadata, object_metadata: dict[str, str]) -> Metadata:
        """Write the side-car: from here on the job is done.

        Returns:
            The side-car that is there: ours, or that of a runner that was faster.

        Raises:
            StoreError: there is none although the store refused ours, as S3 may (409) while something else
                happens to the object. The job is not done, so it must not be closed.
        """
        path = metadata_path(job)
        if await self.store.create(path, _page(metadata), metadata=object_metadata):
            metrics.stored(metadata.times.claimed, metadata.times.stored)
            return metadata
        if there := await self._read(path, Metadata):
            return there
        raise StoreError(f"{self.store.uri_of(path)} could not be written: run the job again")

    async def bury(self, letter: DeadLetter) -> DeadLetter:
        """Write the dead letter, unless one of a later attempt is there.

        Returns:
            The one that is there.
        """
        path, data = _dead_path(letter.job_key), _page(letter)
        if not await self.store.create(path, data):
            there = await self.dead(letter.job_key)
            if there and there.last_attempt >= letter.last_attempt:
                return there
            await self.store.put(path, data, "application/json")
        metrics.FAILED.inc()
        return letter

    async def close(self, key: str, there: OpenJob, upto: int, *, done: bool) -> None:
        """Remove what is there of a finished job, of no later attempt than ``upto``.

        Args:
            done: the job has its side-car; a dead letter from before is removed as well.
        """
        paths = [_path(key, n, "claim") for n in there.claimed if n <= upto]
        paths += [_path(key, n, "prediction") for n in there.recorded if n <= upto]
        if done and upto:
            paths.append(_dead_path(key))
        if paths:
            await self.store.delete(paths)

    async def _read(self, path: str, kind: type[_Fact]) -> _Fact | None:
        data = await self.store.get(path)
        if data is None:
            return None
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise StoreError(
                f"{self.store.uri_of(path)} is not what this version writes "
                f"({error.error_count()} fields differ): upgrade, or move the object away",
                retryable=False,
            ) from None


def now() -> datetime:
    """This machine's time: only for people to read, never to decide by."""
    return datetime.now(UTC)


def _path(key: str, attempt: int, kind: str) -> str:
    return f"open/{key}/{attempt}.{kind}.json"


def _dead_path(key: str) -> str:
    return f"failed/{key}.json"


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def _page(model: BaseModel) -> bytes:
    """As people read it."""
    return model.model_dump_json(indent=2).encode() + b"\n"
