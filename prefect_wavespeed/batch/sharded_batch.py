"""A batch that several runs carry out: its jobs are divided among shards, whose reports become one.

    sharded = ShardedBatch(batch, shards, attempt)
    for shard in await sharded.divide(running):
        ...                         # a run of its own, which is given its shard
    await sharded.follow()          # now and then
    await sharded.finish(reasons)   # all have ended

A shard leaves report parts, and so does one that is killed: both are joined in the same way. What is missing
in them is read from the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import groupby, islice
from operator import attrgetter

from pydantic import RootModel

from prefect_wavespeed.batch.ledger_view import JobState
from prefect_wavespeed.batch.outcome import JobOutcome, rebuilt_error
from prefect_wavespeed.batch.report.rows import ReportRow, decode_rows
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.errors import RestyleError, StoreError
from prefect_wavespeed.job import Job
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode

_OUTCOME_FIELDS = {field.name for field in fields(JobOutcome)}
_PAGE = 500  # jobs


class _Caps(RootModel[list[float]]):
    """Each shard's share of the cap."""


class ShardedBatch:
    """A batch and its shards.

    Args:
        batch: read, quoted and affordable.
        shards: how many shards to divide it among.
        attempt: which try of the run this is.
        began: when the first try began.

    Attributes:
        shards: those under way, by number.
    """

    def __init__(self, batch: Batch, shards: int, attempt: int, began: datetime) -> None:
        self.shards: dict[int, Shard] = {}
        self._batch = batch
        self._of = shards
        self._attempt = attempt
        self._began = began
        self._joined: set[str] = set()  # paths of report parts

    async def divide(self, running: Iterable[Shard] = ()) -> list[Shard]:
        """Divide the jobs that are left.

        Args:
            running: shards that an earlier try of the run started and that have not ended.

        Returns:
            The shards to start: none that is running, none without jobs.

        Raises:
            StoreError: the store cannot be used now.
        """
        self.shards = {shard.number: shard for shard in running}
        caps = await self._caps()
        started = []
        for number in range(1, self._of + 1):
            jobs = list(self._batch.table.jobs_of_shard(number, self._of))
            if jobs and number not in self.shards:
                shard = self._shard(number, caps[number - 1])
                await shard.write_jobs(jobs, self._batch.store)
                started.append(shard)
        self.shards |= {shard.number: shard for shard in started}
        return started

    def _shard(self, number: int, cap: float | None) -> Shard:
        batch = self._batch
        return Shard(
            number=number,
            of=self._of,
            attempt=self._attempt,
            run_id=str(batch.run.flow_run_id),
            run_name=batch.run.flow_run_name,
            folder=batch.folder,
            began=self._began,
            max_cost_usd=cap,
        )

    async def _caps(self) -> Sequence[float | None]:
        """Each shard's share of the cap; it covers all tries of the run, so the first one fixes it."""
        batch, cap = self._batch, self._batch.options.max_cost_usd
        if cap is None:
            return [None] * self._of
        path = layout.caps(batch.folder)
        caps = await batch.quoting.shares_of_cap(cap, self._of)
        if await batch.store.create(path, json.dumps(caps).encode()):
            return caps
        if (earlier := await batch.store.get(path)) is None:
            raise StoreError(f"{batch.store.uri_of(path)} could not be written: run it again")
        return decode(earlier, _Caps, batch.store.uri_of(path)).root

    async def follow(self) -> None:
        """Join the report parts that the shards have written since the last time.

        Raises:
            StoreError: the store cannot be read now.
        """
        batch, folders = self._batch, {shard.path for shard in self.shards.values()}
        entries = await batch.store.list(layout.shards(batch.folder))
        for path in sorted(entry.path for entry in entries):
            is_new = layout.shard_of_part(path) in folders and path not in self._joined
            if is_new and (data := await batch.store.get(path)):
                for key, outcome in _outcomes(decode_rows(data.splitlines(), batch.store.uri_of(path))):
                    batch.table.record(key, outcome)
                batch.recorder.recount()
                self._joined.add(path)

    async def finish(self, reasons: Mapping[int, RestyleError]) -> None:
        """Join the rest, look up in the ledger what no shard has reported, and judge it all as one run.

        Args:
            reasons: of each shard, by number, why it may not have reported all of its jobs.

        Raises:
            StoreError: the store cannot be read now.
        """
        await self.follow()
        batch, table = self._batch, self._batch.table
        if row := table.report.first_stopped():
            shard = self.shards[table.shard_of(row.job_key or "", self._of)]
            message = f"shard {shard.label}: {row.error_message}"
            batch.gate.stopped = rebuilt_error(row.error_type, message, row.retryable)
        jobs = table.unfinished()
        while page := list(islice(jobs, _PAGE)):
            for job, state in zip(page, await batch.ledger.states(page), strict=True):
                reason = reasons[table.shard_of(job.key, self._of)]
                batch.recorder.record(job.key, await self._unreported(job, state, reason))
        await batch.thumbnails.keep_stored()

    async def _unreported(self, job: Job, state: JobState, reason: RestyleError) -> JobOutcome:
        """The outcome of a job that no shard has reported, from what the ledger holds of it."""
        if state.metadata:
            return self._batch.ledger.stored_outcome(job, state.metadata, state)
        attempt = state.open_job.latest
        if state.dead_letter and not attempt:
            return JobOutcome.of_error("failed", state.dead_letter.as_error())
        is_recorded = attempt in state.open_job.recorded
        return JobOutcome.of_error(
            "open" if attempt else "unsubmitted",
            reason,
            prediction_id=await self._batch.ledger.prediction_id(job, attempt) if is_recorded else None,
            attempts=attempt or None,
        )


def _outcomes(rows: Iterable[ReportRow]) -> Iterator[tuple[str, JobOutcome]]:
    """The outcome of each job: its rows are adjacent, and the first one has its cost."""
    for key, (row, *_) in groupby(rows, attrgetter("job_key")):
        yield key, JobOutcome(**row.model_dump(include=_OUTCOME_FIELDS))
