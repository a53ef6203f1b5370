"""A batch in shards: divided, capped, joined and judged as one run; instant (fake_batch)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.sharded_batch import ShardedBatch
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.errors import (
    AuthenticationError,
    BatchFailedError,
    BudgetExceededError,
    ConfigurationError,
    OutputError,
    RestyleError,
    ShardFailedError,
)
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.fake_batch import FakeApi, images
from tests.support.records import report_rows

FOLDER = "runs/dt=2026-01-01/whole"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE = RunInfo(package_version="test", flow_run_id="whole", flow_run_name="restyle m.jsonl")


@dataclass
class World:
    """A manifest, an output and an API."""

    folder: Path
    api: FakeApi = field(default_factory=FakeApi)
    manifest: str | Sequence[str] = ()
    options: BatchOptions = field(default_factory=BatchOptions)
    quoted: asyncio.Barrier = field(default_factory=lambda: asyncio.Barrier(1))

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def rows(self) -> list[ReportRow]:
        """The report of the whole run."""
        return report_rows((self.output / FOLDER / "report.jsonl").read_bytes())

    def rows_in_file(self, rows: Sequence[dict[str, object]]) -> None:
        path = self.folder / "m.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        self.manifest = str(path)

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[Batch]:
        """The run that starts the shards, ready to do so."""
        client, store = cast("WaveSpeedClient", self.api), directory_store(self.output)
        with instant_retries():
            async with Batch(client, store, WHOLE, FOLDER, self.options) as batch:
                await batch.read(self.manifest)
                await batch.afford()
                yield batch

    async def carry_out(self, shard: Shard) -> None:
        """Be one of the shards."""
        client, store = cast("WaveSpeedClient", self.api), directory_store(self.output)
        options, run = shard.options(self.options), shard.run(RunInfo(package_version="test"))
        share = await shard.share(store)
        async with Batch(client, store, run, shard.path, options, share=share) as batch:
            await batch.read(self.manifest)
            await batch.afford()
            await self.quoted.wait()  # what happens to the account happens while they submit
            await batch.carry_out(self.api.carrier(batch).with_retries())
            await batch.close()

    async def run(
        self, of: int, without: Sequence[int] = (), change: Callable[[], None] = lambda: None
    ) -> tuple[Summary, RestyleError | None]:
        """Be all of them; those left out never start."""
        async with self.whole() as batch:
            sharded = ShardedBatch(batch, of, 1, BEGAN)
            shards = await sharded.divide()
            change()
            starting = [one for one in shards if one.number not in without]
            self.quoted = asyncio.Barrier(max(1, len(starting)))
            await asyncio.gather(*map(self.carry_out, starting))
            await sharded.finish({one.number: crashed(one) for one in shards})
            summary = await batch.close()
            return summary, batch.verdict(summary)


def crashed(shard: Shard) -> RestyleError:
    return ShardFailedError(f"shard {shard.label} ended as Crashed: run it again to continue", retryable=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_the_reports_of_all_shards_are_one_complete_and_in_order(world: World) -> None:
    world.manifest = [*images(30), *images(3)]
    summary, error = await world.run(3)
    assert error is None
    assert (summary.row_count, summary.jobs, summary.counts) == (33, 30, {"stored": 33})
    assert (summary.images, summary.spent_usd) == (30, 0.75)
    assert [row.row for row in world.rows] == list(range(1, 34))
    assert [row.image for row in world.rows] == [*images(30), *images(3)]
    assert all(row.prediction_id and row.seconds and row.metadata_uri for row in world.rows)
    assert [row.cost_usd for row in world.rows] == [0.025] * 30 + [0.0] * 3
    assert Counter(number for number, _ in world.api.submissions) == Counter(range(1, 31))
    left = {path.name for path in (world.output / FOLDER).rglob("*") if path.is_file()}
    assert left == {"report.jsonl", "report.parquet", "gallery.html", "summary.json"}


async def test_every_job_is_in_one_shard_and_every_shard_has_some(world: World) -> None:
    world.manifest = images(40)
    async with world.whole() as batch:
        shards = await ShardedBatch(batch, 4, 1, BEGAN).divide()
        shares = [(await shard.share(batch.store)).keys for shard in shards]
    assert [shard.label for shard in shards] == ["1/4", "2/4", "3/4", "4/4"]
    assert sum(map(len, shares)) == len(frozenset().union(*shares)) == 40
    assert min(map(len, shares)) > 3


async def test_a_shard_that_is_running_is_not_started_again_nor_one_without_jobs(world: World) -> None:
    world.manifest = images(1)
    async with world.whole() as batch:
        (only,) = await ShardedBatch(batch, 7, 1, BEGAN).divide()
        assert await ShardedBatch(batch, 7, 2, BEGAN).divide([only]) == []


async def test_what_is_submitted_is_the_whole_runs(world: World) -> None:
    shard = Shard(number=2, of=3, run_id="whole", run_name="restyle m.jsonl", folder=FOLDER, began=BEGAN)
    own = RunInfo(package_version="test", flow_run_id="child", flow_run_name="restyle m.jsonl, 2/3")
    assert (shard.run(own).flow_run_id, shard.run(own).flow_run_name) == ("whole", "restyle m.jsonl")
    world.manifest, world.api.joined = images(4), {2: "whole"}  # submitted by an earlier try
    await world.run(2)
    assert [row.cost_usd for row in world.rows] == [0.025] * 4


async def test_bad_rows_are_reported_by_the_whole_run_alone(world: World) -> None:
    rows: list[dict[str, object]] = [{"image": image} for image in images(6)]
    rows += [{"image": "ftp://nowhere/1.jpg"}, {"image": images(9)[8], "size": "huge"}]
    world.rows_in_file([*rows, {"image": str(world.folder / "gone.jpg")}])
    world.options = BatchOptions(on_bad_row="skip", max_failed=0.1)
    summary, error = await world.run(2)
    assert "1 of 9 rows failed (1 SourceError)" in str(error)
    assert summary.counts == {"stored": 6, "invalid": 2, "failed": 1}
    assert [row.status for row in world.rows][6:] == ["invalid", "invalid", "failed"]


async def test_a_shard_carries_out_what_was_quoted_even_if_the_manifest_has_changed(world: World) -> None:
    world.rows_in_file([{"image": image} for image in images(8)])
    moved = [*images(40)[20:], *images(7)]  # shifted, longer, and the eighth is gone
    summary, error = await world.run(
        2, change=lambda: world.rows_in_file([{"image": image} for image in moved])
    )
    assert summary.counts == {"stored": 7, "unsubmitted": 1}
    assert [row.status for row in world.rows] == ["stored"] * 7 + ["unsubmitted"]
    assert {number for number, _ in world.api.submissions} == set(range(1, 8))
    assert isinstance(error, BatchFailedError)


async def test_the_jobs_of_a_shard_that_reported_nothing_have_its_reason(world: World) -> None:
    world.manifest = images(20)
    summary, error = await world.run(2, without=[2])
    unreported = [row for row in world.rows if row.status == "unsubmitted"]
    assert len(unreported) == summary.counts["unsubmitted"] == 20 - len(world.api.submissions) > 3
    assert {(row.error_type, row.retryable) for row in unreported} == {("ShardFailedError", True)}
    assert all("ended as Crashed" in (row.error_message or "") for row in unreported)
    assert isinstance(error, BatchFailedError)
    assert error.retryable
    assert f"{len(unreported)} unsubmitted" in error.message


@pytest.mark.parametrize("retryable", [True, False])
async def test_whether_an_error_may_be_retried_survives_the_way_from_the_shard(
    retryable: bool, world: World
) -> None:
    world.manifest = images(6)
    world.api.errors = {3: OutputError("the output is bigger than 100 MB", retryable=retryable)}
    summary, error = await world.run(2)
    assert summary.errors == {"OutputError": 1}
    assert world.rows[2].retryable == retryable
    assert error is not None
    assert error.retryable == retryable


@pytest.mark.parametrize("kind", [AuthenticationError, BudgetExceededError])
async def test_a_shard_in_which_submitting_stopped_stops_the_run_for_the_same_reason(
    kind: type[RestyleError], world: World
) -> None:
    world.manifest = images(40)
    if kind is AuthenticationError:

        def revoked(number: int) -> None:
            world.api.balance_usd = None
            world.api.refusals = {n: [AuthenticationError("refused")] for n in range(1, 41)}

        world.api.on_submit = revoked
    else:
        world.options = BatchOptions(max_cost_usd=1, concurrency=4)
        world.api.failing = Counter(dict.fromkeys(range(1, 6), 1))
    summary, error = await world.run(2)
    assert type(error) is kind
    assert error.message.startswith("shard ")
    assert f"{summary.counts['unsubmitted']} not submitted" in error.message
    assert sum(summary.counts.values()) == 40


# --- the cap ---


async def test_the_exact_price_is_enough_for_all_shards(world: World) -> None:
    world.manifest, world.options = images(20), BatchOptions(max_cost_usd=0.5)
    summary, error = await world.run(3)
    assert error is None
    assert (summary.counts, summary.spent_usd) == ({"stored": 20}, 0.5)


async def test_together_they_keep_the_cap_when_attempts_fail(world: World) -> None:
    world.manifest, world.options = images(80), BatchOptions(max_cost_usd=2.2, concurrency=6)
    world.api.failing = Counter(dict.fromkeys(range(1, 31), 1))
    summary, error = await world.run(3)
    assert isinstance(error, BudgetExceededError)
    assert world.api.charged_usd <= 2.2 + 1e-9
    assert summary.spent_usd == pytest.approx(0.025 * summary.counts["stored"])


async def test_a_shard_refuses_what_its_share_does_not_cover(world: World) -> None:
    world.manifest, world.options = images(20), BatchOptions(max_cost_usd=0.6)
    async with world.whole() as batch:
        first, _ = await ShardedBatch(batch, 2, 1, BEGAN).divide()
        cheaper = first.model_copy(update={"max_cost_usd": 0.1})  # as if the price had risen since
        with pytest.raises(BudgetExceededError):
            await world.carry_out(cheaper)
    assert world.api.submissions == []


async def test_the_cap_is_divided_once_for_all_tries_of_the_run(world: World) -> None:
    world.manifest, world.options = images(40), BatchOptions(max_cost_usd=2.0)
    async with world.whole() as batch:
        first = await ShardedBatch(batch, 2, 1, BEGAN).divide()
    world.api.usd = 0.04
    async with world.whole() as batch:
        second = await ShardedBatch(batch, 2, 2, BEGAN).divide()
    assert [shard.max_cost_usd for shard in first] == [shard.max_cost_usd for shard in second]
    caps = json.loads((world.output / FOLDER / "caps.json").read_text())
    assert caps == [shard.max_cost_usd for shard in first]
    assert [shard.attempt for shard in second] == [2, 2]


async def test_a_shard_that_no_run_started_says_what_to_do(tmp_path: Path) -> None:
    shard = Shard(number=1, of=2, run_id="made up", folder="runs/none", began=BEGAN)
    with pytest.raises(ConfigurationError, match="leave shard empty and set shards"):
        await shard.share(directory_store(tmp_path))
