"""Jobs that are killed, raced, paused and cut off: carrying the cases out, and what must come of them.

Most of a case is waiting for leases, so all of them run at once, each with a seed of its own by which the
emulator's ledger shows what it cost.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.storage.open_store import bucket_store, directory_store
from prefect_wavespeed.storage.s3 import S3Access
from prefect_wavespeed.storage.store import Store
from tests.support.emulator_process import Emulator
from tests.support.interruption_cases import Case, Run
from tests.support.runners import Ended, Runners
from tests.support.s3_proxy import Fault, Proxy, proxy
from tests.support.s3_servers import S3Server
from tests.support.schemas import check


@dataclass
class Output:
    """An output: its store, and the environment in which a runner finds it."""

    store: Store
    env: dict[str, str] = field(default_factory=dict)

    async def side_car(self) -> str:
        """Path of the side-car of the only job here."""
        (path,) = [e.path for e in await self.store.list("images/") if e.path.endswith("/metadata.json")]
        return path

    async def metadata(self) -> Metadata:
        """The side-car of the only job here, which must be valid against its schema."""
        data = await self.store.get(await self.side_car())
        assert data
        check("metadata", data)
        return Metadata.model_validate_json(data)

    async def pictures(self) -> list[bytes]:
        """The pictures of the only job here, which must be what its side-car says."""
        pictures = []
        for output in (await self.metadata()).outputs:
            picture = await self.store.get(output.key or "")
            assert picture
            assert hashlib.sha256(picture).hexdigest() == output.sha256
            pictures.append(picture)
        return pictures


@dataclass
class World:
    """What cases share."""

    emulator: Emulator
    runners: Runners
    folder: Path
    accesses: dict[str, S3Access] = field(default_factory=dict)

    def output(self, name: str, server: S3Server | None = None) -> Output:
        """An empty output: a prefix on a server, or a directory."""
        if server is None:
            return Output(directory_store(self.folder / name))
        if server.endpoint not in self.accesses:  # a boto3 client takes its time
            self.accesses[server.endpoint] = S3Access(server.session(), endpoint_url=server.endpoint)
        access = self.accesses[server.endpoint]
        return Output(bucket_store(access, server.bucket, name), server.env)

    async def run(
        self, output: Output, seed: int, run: Run | None = None, images: int = 1, *, listed: bool = False
    ) -> Ended:
        """Let one runner run."""
        params = json.dumps({"size": "256*256", "seed": seed, "num_images": images})
        run = run or Run()
        await asyncio.sleep(run.delay)
        options = ["--params", params, *run.options, *(["--listed-as-new"] if listed else [])]
        return await self.runners.run(output.store.uri, self.emulator.url, *options, env=output.env)

    def predictions(self, seed: int) -> list[dict[str, Any]]:
        """What was created at WaveSpeedAI with a seed."""
        return [p for p in self.emulator.ledger()["predictions"] if p["input"]["seed"] == seed]

    async def carry_out(
        self, case: Case, name: str, server: S3Server | None, seed: int, *, listed: bool = False
    ) -> CaseOutcome:
        """Let a case's rounds run; ``listed``: each runner by a listing that held nothing."""
        output = self.output(name, server)
        if server is None or not case.faults:
            return await self._rounds(case, output, seed, listed=listed)
        with proxy(server, *case.faults) as (way, seen):
            return await self._rounds(case, replace(output, env=seen.env), seed, way)

    async def _rounds(
        self, case: Case, output: Output, seed: int, way: Proxy | None = None, *, listed: bool = False
    ) -> CaseOutcome:
        outcome = CaseOutcome(case, output)
        for runs in case.rounds:
            if way:
                way.up()
            outcome.ended += await asyncio.gather(
                *(self.run(output, seed, run, case.images, listed=listed) for run in runs)
            )
            outcome.predictions.append(self.predictions(seed))
        outcome.faults_left = [some for some in way.faults if some.times] if way else []
        return outcome


def selected(request: pytest.FixtureRequest) -> list[int]:
    """The numbers of the cases that this session is to test."""
    specs = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    return [spec.params["number"] for spec in specs if spec and "number" in spec.params]


def rules(cases: Sequence[tuple[Case, int]]) -> list[dict[str, Any]]:
    """The fault script for cases and their seeds."""
    return [{**rule, "match": {"seed": seed}} for case, seed in cases for rule in case.rules]


@dataclass
class CaseOutcome:
    """What came of a case; its predictions, as they were after each round."""

    case: Case
    output: Output
    ended: list[Ended] = field(default_factory=list)
    predictions: list[list[dict[str, Any]]] = field(default_factory=list)
    faults_left: list[Fault] = field(default_factory=list)

    async def prove(self) -> None:
        """The job was billed once and is done, every survivor reports it alike, and nothing is open."""
        restyled = [one.restyled for one in self.ended if one.restyled]
        assert (
            tuple(one.error for one in self.ended if not one.restyled and not one.killed) == self.case.errors
        )
        assert sum(one.killed for one in self.ended) == self.case.deaths
        assert self.faults_left == []

        (prediction,) = self.predictions[-1]
        assert prediction["billed"]
        if self.case.created:
            assert tuple(len(after) for after in self.predictions) == self.case.created

        metadata = await self.output.metadata()
        assert metadata.prediction.id == prediction["id"]
        assert self.case.attempts in (None, len(metadata.attempts))
        assert len(await self.output.pictures()) == self.case.images
        assert {one.prediction_id for one in restyled} == {metadata.prediction.id}
        assert {one.metadata_uri for one in restyled} == {
            self.output.store.uri_of(await self.output.side_car())
        }
        assert all(one.outputs == restyled[0].outputs for one in restyled)
        assert [e.path for e in await self.output.store.list("open/")] == []
        assert [e.path for e in await self.output.store.list("failed/")] == []
