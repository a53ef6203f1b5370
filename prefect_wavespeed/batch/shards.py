"""A batch shared out: which of its jobs each of several runs carries out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from pydantic import BaseModel, ConfigDict, Field

from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.rows import Row
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.job import Job, RunInfo
from prefect_wavespeed.storage.store import Store


def lot(image: str) -> int:
    """A number drawn from a source's name: the same wherever the manifest is read, and evenly spread."""
    return int.from_bytes(hashlib.sha256(image.encode("utf-8", "replace")).digest()[:6])


class Shard(BaseModel):
    """What a run is told that carries out a part of another run's batch."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(ge=1, description="Which part, from 1.")
    of: int = Field(ge=1, description="How many parts there are.")
    attempt: int = Field(default=1, ge=1, description="Which try of the whole run began it.")
    run_id: str = Field(description="The whole run: whatever its shards submit is its own.")
    run_name: str | None = Field(default=None, description="The whole run's name.")
    folder: str = Field(description="Where the whole run's account goes.")
    max_cost_usd: float | None = Field(default=None, ge=0, description="Its share of the whole run's cap.")

    @property
    def label(self) -> str:
        """Short name for people."""
        return f"{self.number}/{self.of}"

    @property
    def path(self) -> str:
        """Where its list of jobs lies, and what it tells of them: of each attempt by itself."""
        return f"{self.folder}/shards/{self.number}.{self.attempt}"

    def options(self, whole: BatchOptions) -> BatchOptions:
        """What it is to do of what the whole run is told. How much may fail, the whole run says."""
        part = {
            "concurrency": ceil(whole.concurrency / self.of),
            "max_cost_usd": self.max_cost_usd,  # 0 for a shard whose jobs cost nothing
            "max_failed": 1.0,
        }
        return whole.model_copy(update=part)

    def run(self, here: RunInfo) -> RunInfo:
        """Who submits: the whole run. So it finds what was paid for, whichever of its shards did that."""
        return here.model_copy(update={"flow_run_id": self.run_id, "flow_run_name": self.run_name})

    async def list(self, keys: Iterable[str], store: Store) -> None:
        """Write down which jobs it carries out."""
        await store.put(f"{self.path}/jobs.txt", "".join(f"{key}\n" for key in keys).encode(), "text/plain")

    async def share(self, store: Store) -> Share:
        """Which jobs it carries out.

        Raises:
            ConfigurationError: nobody has written that down: the run was not started by a whole one.
        """
        listed = await store.get(f"{self.path}/jobs.txt")
        if listed is None:
            raise ConfigurationError(
                f"shard {self.label}: {store.uri_of(self.path)}/jobs.txt is not there: leave shard empty and "
                "set shards: the run then starts its shards itself"
            )
        return Share(self, frozenset(listed.decode().split()))


@dataclass(frozen=True)
class Share:
    """The jobs of a shard: exactly those that the whole run has read and quoted, whatever the manifest says
    by now.

    Attributes:
        shard: whose.
        keys: of the jobs.
    """

    shard: Shard
    keys: frozenset[str]

    def may_hold(self, row: Row) -> bool:
        """Whether a row is worth a look at its source, which others do not have to look at then."""
        return lot(row.shown) % self.shard.of == self.shard.number - 1

    def holds(self, job: Job) -> bool:
        """Whether a job is to be carried out."""
        return job.key in self.keys
