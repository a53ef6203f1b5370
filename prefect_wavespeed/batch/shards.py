"""A batch in shards: which of its jobs each of several runs carries out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from pydantic import BaseModel, ConfigDict, Field

from prefect_wavespeed.batch.manifest.rows import Row
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.job import Job, RunInfo
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

_NEW = " new"


def lot(image: str) -> int:
    """A number drawn from a source's name: the same wherever the manifest is read, and evenly distributed."""
    return int.from_bytes(hashlib.sha256(image.encode("utf-8", "replace")).digest()[:6])


class Shard(BaseModel):
    """A part of a batch, as the run that carries it out is given it."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(ge=1, description="Which shard, from 1.")
    of: int = Field(ge=1, description="How many shards there are.")
    attempt: int = Field(default=1, ge=1, description="Which try of the whole run started it.")
    run_id: str = Field(description="The whole run: what its shards submit counts as its own.")
    run_name: str | None = Field(default=None, description="The whole run's name.")
    folder: str = Field(description="Where the whole run's report goes.")
    began: datetime = Field(description="When the first try of the whole run began.")
    max_cost_usd: float | None = Field(default=None, ge=0, description="Its share of the whole run's cap.")

    @property
    def label(self) -> str:
        """Short name for people."""
        return f"{self.number}/{self.of}"

    @property
    def path(self) -> str:
        """The folder of its list of jobs and of its report parts; each attempt has its own."""
        return layout.shard(self.folder, self.number, self.attempt)

    def options(self, whole: BatchOptions) -> BatchOptions:
        """Its own options. How many rows may fail is judged by the whole run alone."""
        own = {
            "concurrency": ceil(whole.concurrency / self.of),
            "max_cost_usd": self.max_cost_usd,  # 0 for a shard whose jobs cost nothing
            "max_failed": 1.0,
        }
        return whole.model_copy(update=own)

    def run(self, own: RunInfo) -> RunInfo:
        """Who submits: the whole run, so that it finds what was paid for, whichever shard submitted it."""
        return own.model_copy(update={"flow_run_id": self.run_id, "flow_run_name": self.run_name})

    async def write_jobs(self, jobs: Iterable[tuple[str, bool]], store: Store) -> None:
        """Write down which jobs it carries out: their keys, and whether the store held nothing of them.

        Raises:
            StoreError: the store cannot be written now.
        """
        text = "".join(f"{key}{_NEW if is_new else ''}\n" for key, is_new in jobs)
        await store.put(layout.shard_jobs(self.path), text.encode(), "text/plain")

    async def share(self, store: Store) -> Share:
        """Read which jobs it carries out.

        Raises:
            ConfigurationError: that was never written: the run was not started by a whole run.
            StoreError: the store cannot be read now.
        """
        path = layout.shard_jobs(self.path)
        text = await store.get(path)
        if text is None:
            raise ConfigurationError(
                f"shard {self.label}: {store.uri_of(path)} is missing: leave shard empty and set shards: the "
                "run then starts its shards itself"
            )
        lines = text.decode().splitlines()
        new = frozenset(line.removesuffix(_NEW) for line in lines if line.endswith(_NEW))
        return Share(self, new.union(line for line in lines if not line.endswith(_NEW)), new)


@dataclass(frozen=True)
class Share:
    """The jobs of a shard: those that the whole run read and quoted, even if the manifest has changed.

    Attributes:
        shard: whose.
        keys: of the jobs.
        new: keys of those of which the store held nothing.
    """

    shard: Shard
    keys: frozenset[str]
    new: frozenset[str]

    def may_hold(self, row: Row) -> bool:
        """Whether a row's job may be one of them; if not, its source need not be looked up."""
        return lot(row.safe_image) % self.shard.of == self.shard.number - 1

    def holds(self, job: Job) -> bool:
        """Whether a job is one of them."""
        return job.key in self.keys
