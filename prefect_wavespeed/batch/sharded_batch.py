"""A batch that several runs carry out: its jobs are shared out, and what they tell becomes one account.

    sharded = ShardedBatch(batch, of, attempt)
    for shard in await sharded.share_out(running):
        ...                         # a run of its own, which is told its shard
    await sharded.follow()          # now and then
    await sharded.finish(ended)     # all have ended

A shard leaves what it knows as parts of an account (``restyle/parts.py``), and so does one that is killed: to
whoever joins them they are the same. Of what is missing there the ledger knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from operator import attrgetter

from prefect_wavespeed import errors
from prefect_wavespeed.batch.job_table import JobOutcome
from prefect_wavespeed.batch.report import AccountRow, decode_part
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.errors import RestyleError, StoreError, worth_retrying

_TOLD = {field.name for field in fields(JobOutcome)}


class ShardedBatch:
    """A batch and those who carry it out.

    Args:
        batch: read, quoted and affordable.
        of: how many shards there are.
        attempt: which try of the run this is.

    Attributes:
        shards: those under way, by number.
    """

    def __init__(self, batch: Batch, of: int, attempt: int) -> None:
        self.shards: dict[int, Shard] = {}
        self._batch = batch
        self._of = of
        self._attempt = attempt
        self._taken: set[str] = set()

    async def share_out(self, running: Iterable[Shard] = ()) -> list[Shard]:
        """Share out the jobs that are left.

        Args:
            running: shards that an earlier try of the run has begun and that have not ended.

        Returns:
            The shards to begin: none of those that run, none that would have nothing to do.
        """
        self.shards = {shard.number: shard for shard in running}
        caps = await self._caps()
        begun = []
        for number in range(1, self._of + 1):
            keys = list(self._batch.table.keys_of_shard(number, self._of))
            if keys and number not in self.shards:
                shard = self._shard(number, caps[number - 1])
                await shard.list(keys, self._batch.store)
                begun.append(shard)
        self.shards |= {shard.number: shard for shard in begun}
        return begun

    def _shard(self, number: int, cap: float | None) -> Shard:
        batch = self._batch
        return Shard(
            number=number,
            of=self._of,
            attempt=self._attempt,
            run_id=str(batch.run.flow_run_id),
            run_name=batch.run.flow_run_name,
            folder=batch.folder,
            max_cost_usd=cap,
        )

    async def _caps(self) -> Sequence[float | None]:
        """Each shard's share of the cap: of all its tries together, so it is said once and for all."""
        batch = self._batch
        if batch.options.max_cost_usd is None:
            return [None] * self._of
        path = f"{batch.folder}/caps.json"
        caps = await batch.shares(self._of)
        if not await batch.store.create(path, json.dumps(caps).encode()):
            if (there := await batch.store.get(path)) is None:
                raise StoreError(f"{batch.store.uri_of(path)} could not be written: run it again")
            caps = json.loads(there)
        return caps

    async def follow(self) -> None:
        """Take over what the shards have told since the last time."""
        store, current = self._batch.store, {shard.path for shard in self.shards.values()}
        there = await store.list(f"{self._batch.folder}/shards/")
        for path in sorted(entry.path for entry in there):
            shard, part, _ = path.rpartition("/parts/")
            if part and shard in current and path not in self._taken and (data := await store.get(path)):
                self._batch.learn(_outcomes(decode_part(data)))
                self._taken.add(path)

    async def finish(self, ended: Mapping[int, RestyleError]) -> None:
        """Take over the rest, ask the ledger for what no shard has told, and judge it all as one run.

        Args:
            ended: of each shard, by number, why it may have told less than all.
        """
        await self.follow()
        batch = self._batch
        batch.passing = any(worth_retrying(_error(name, "")) for name in batch.table.errors())
        if row := batch.table.stopped():
            shard = self.shards[batch.table.shard_of(row.job_key or "", self._of)]
            batch.stopped = _error(row.error_type or "", f"shard {shard.label}: {row.error_message}")
        await batch.take_stock(lambda job: ended[batch.table.shard_of(job.key, self._of)])
        await batch.show_pictures()


def _outcomes(rows: Iterable[AccountRow]) -> Iterator[tuple[str, JobOutcome]]:
    """What became of each job: its rows follow one another, and the first tells what it cost."""
    for key, (row, *_) in groupby(rows, attrgetter("job_key")):
        yield key, JobOutcome(**row.model_dump(include=_TOLD))


def _error(name: str, message: str) -> RestyleError:
    """An error as a row of an account names it."""
    kind: type[RestyleError] = getattr(errors, name, RestyleError)
    return kind(message)
