"""A batch that several runs carry out, through the engine: shared out, capped, joined, one dying or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.report.rows import ReportRow, Summary, decode_part
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.sharded_batch import ShardedBatch
from prefect_wavespeed.batch.shards import Shard, lot
from prefect_wavespeed.errors import (
    BatchFailedError,
    BudgetExceededError,
    ConfigurationError,
    ShardFailedError,
)
from prefect_wavespeed.flows import restyle_batch
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.store import Store
from tests.support.batches import PLACE, pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.engine import QUICK
from tests.support.prefect_server import PrefectServer

pytestmark = pytest.mark.e2e  # runs by the dozen

FOLDER = "runs/dt=2026-01-01/whole"
WHOLE = RunInfo(package_version="test", flow_run_id="whole", flow_run_name="restyle m.jsonl")
SMALL = ReduxParams(size="256*256")


@dataclass
class Ended:
    """How shards ended: those that were killed, and what they were told."""

    begun: list[Shard] = field(default_factory=list)
    killed: set[int] = field(default_factory=set)

    def why(self, shards: Iterable[int]) -> dict[int, ShardFailedError]:
        """Why each may have told less than all."""
        return {
            n: ShardFailedError(f"shard {n} ended as Crashed: run it again to continue", retryable=True)
            for n in shards
        }


@dataclass
class Sharded:
    """A batch in shards on an output."""

    url: str
    out: Path
    manifest: Any
    options: BatchOptions = field(default_factory=lambda: BatchOptions(params=SMALL))

    @property
    def store(self) -> Store:
        """Where it all goes."""
        return open_store(str(self.out))

    async def carry_out(self, shard: Shard, stop_after: int | None = None) -> None:
        """Be one of the shards; die, if so told, when so many rows are known."""
        store, options = self.store, shard.options(self.options)
        run = shard.run(RunInfo(package_version="test", flow_run_id=f"child {shard.number}"))
        dying = asyncio.Event()

        def changed(progress: Any) -> None:
            if stop_after is not None and progress.finished >= stop_after:
                dying.set()

        async with WaveSpeedClient("test-key", self.url, submit_timeout=1, timeout=2) as client:
            share, is_retry = await shard.share(store), shard.attempt > 1
            async with Batch(
                client, store, run, shard.path, options, share=share, is_retry=is_retry, on_progress=changed
            ) as batch:
                await batch.read(self.manifest)
                await batch.afford()

                async def admit(job: Any, attempt: int, usd: float | None) -> None:
                    await batch.admit(job, attempt)

                steps = StepSet(client, store, QUICK, admit=admit)
                submit = partial(steps.submit, run=run, retry_failed=options.retry_failed)
                carrier = Carrier(submit, steps.poll, partial(steps.download, run=run), look=steps.look)
                work = asyncio.create_task(batch.carry_out(carrier.with_retries()))
                death = asyncio.create_task(dying.wait())
                await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
                if dying.is_set():
                    work.cancel()
                    with suppress(asyncio.CancelledError):
                        await work
                    return
                death.cancel()
                await batch.close()

    async def whole(
        self, of: int = 2, attempt: int = 1, dies: dict[int, int] | None = None
    ) -> tuple[Summary, Exception | None, list[Shard]]:
        """Be the run that starts them and joins what they tell."""
        async with (
            WaveSpeedClient("test-key", self.url, submit_timeout=1, timeout=2) as client,
            Batch(client, self.store, WHOLE, FOLDER, self.options, is_retry=attempt > 1) as batch,
        ):
            await batch.read(self.manifest)
            await batch.afford()
            sharded = ShardedBatch(batch, of, attempt)
            begun = await sharded.divide()
            await asyncio.gather(*(self.carry_out(shard, (dies or {}).get(shard.number)) for shard in begun))
            await sharded.finish(Ended().why(sharded.shards))
            summary = await batch.close()
            return summary, batch.verdict(summary), begun

    def rows(self) -> list[ReportRow]:
        """The joined report."""
        return decode_part((self.out / FOLDER / "manifest.jsonl").read_bytes())


@pytest.fixture(scope="module")
def ready() -> Any:
    with Emulator("--prerendered", "--latency", "0.1", "0.2") as running:
        yield running


@pytest.fixture
def quick(ready: Emulator) -> Emulator:
    ready.reset()
    return ready


async def test_shards_together_are_one_report_complete_and_in_order(quick: Emulator, tmp_path: Path) -> None:
    twice = [*pictures(30), *pictures(3)]
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", twice))
    summary, error, begun = await batch.whole(3)
    assert error is None
    assert [shard.label for shard in begun] == ["1/3", "2/3", "3/3"]
    assert (summary.rows, summary.jobs, summary.counts) == (33, 30, {"stored": 33})
    assert (summary.images, summary.spent_usd) == (30, 0.75)
    rows = batch.rows()
    assert [row.row for row in rows] == list(range(1, 34))
    assert [row.id for row in rows] == [row["id"] for row in twice]
    assert all(row.prediction_id and row.seconds and row.metadata_uri for row in rows)
    assert [row.cost_usd for row in rows] == [0.025] * 30 + [0.0] * 3
    assert quick.ledger()["billed"] == 30


async def test_every_shard_carries_out_a_part_of_its_own(quick: Emulator, tmp_path: Path) -> None:
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(40)))
    async with (
        WaveSpeedClient("test-key", quick.url) as client,
        Batch(client, batch.store, WHOLE, FOLDER, batch.options) as whole,
    ):
        await whole.read(batch.manifest)
        begun = await ShardedBatch(whole, 4, 1).divide()
        shares = [(await shard.share(batch.store)).keys for shard in begun]
    assert sum(map(len, shares)) == len(frozenset().union(*shares)) == 40
    assert min(map(len, shares)) > 3


async def test_side_cars_name_the_whole_run(quick: Emulator, tmp_path: Path) -> None:
    """So that whoever goes on finds what this run has paid for, whichever shard did."""
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(4)))
    await batch.whole()
    cars = [Metadata.model_validate_json(p.read_bytes()) for p in batch.out.glob("images/*/metadata.json")]
    assert {(car.run.flow_run_id, car.run.flow_run_name) for car in cars} == {("whole", "restyle m.jsonl")}
    assert {attempt.flow_run_id for car in cars for attempt in car.attempts} == {"whole"}


async def test_nothing_of_the_shards_is_left_beside_the_report(quick: Emulator, tmp_path: Path) -> None:
    options = BatchOptions(params=SMALL, max_cost_usd=1)
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(4)), options)
    await batch.whole()
    left = {path.name for path in (batch.out / FOLDER).rglob("*") if path.is_file()}
    assert left == {"manifest.jsonl", "manifest.parquet", "gallery.html", "summary.json", "caps.json"}


async def test_the_gallery_shows_what_the_shards_have_made(quick: Emulator, tmp_path: Path) -> None:
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(5)))
    await batch.whole()
    page = (batch.out / FOLDER / "gallery.html").read_text()
    assert '"picture":0' in page


async def test_rows_that_are_refused_or_skipped_are_told_by_the_whole_run_alone(
    quick: Emulator, tmp_path: Path
) -> None:
    rows = [*pictures(6), {"image": "ftp://nowhere/1.jpg"}, {"image": f"{PLACE}/9.jpg", "size": "huge"}]
    rows.append({"image": str(tmp_path / "gone.jpg")})
    options = BatchOptions(params=SMALL, on_bad_row="skip", max_failed=0.1)
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", rows), options)
    summary, error, _ = await batch.whole()
    assert "1 of 9 rows failed (1 SourceError)" in str(error)
    assert summary.counts == {"stored": 6, "invalid": 2, "failed": 1}
    assert [row.status for row in batch.rows()][6:] == ["invalid", "invalid", "failed"]


async def test_a_shard_carries_out_what_was_quoted_although_the_manifest_has_grown(
    quick: Emulator, tmp_path: Path
) -> None:
    path = tmp_path / "m.jsonl"
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(path, pictures(8)))
    async with (
        WaveSpeedClient("test-key", quick.url) as client,
        Batch(client, batch.store, WHOLE, FOLDER, batch.options) as whole,
    ):
        await whole.read(batch.manifest)
        await whole.afford()
        sharded = ShardedBatch(whole, 2, 1)
        begun = await sharded.divide()
        write_manifest(path, [*pictures(40)[20:], *pictures(7)])  # shifted, longer, and the eighth is gone
        await asyncio.gather(*map(batch.carry_out, begun))
        await sharded.finish(Ended().why(sharded.shards))
        summary = await whole.close()
    assert summary.counts == {"stored": 7, "unsubmitted": 1}
    assert [row.status for row in batch.rows()] == ["stored"] * 7 + ["unsubmitted"]
    assert quick.ledger()["billed"] == 7


class TestOneDies:
    """A shard that is killed in the middle."""

    async def test_its_rows_are_told_from_what_it_left_and_from_the_ledger(
        self, quick: Emulator, tmp_path: Path
    ) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(40))
        batch = Sharded(quick.url, tmp_path / "out", manifest, BatchOptions(params=SMALL, concurrency=6))
        summary, error, _ = await batch.whole(dies={2: 4})
        rows, stored = batch.rows(), len(list(batch.out.glob("images/*/metadata.json")))
        assert [row.row for row in rows] == list(range(1, 41))
        assert summary.counts["stored"] == stored < 40
        assert summary.counts.get("open", 0) + summary.counts["unsubmitted"] == 40 - stored
        assert summary.spent_usd == pytest.approx(0.025 * stored)
        untold = [row for row in rows if row.status in ("open", "unsubmitted")]
        assert {row.error_type for row in untold} == {"ShardFailedError"}
        assert all("ended as Crashed" in (row.error_message or "") for row in untold)
        assert isinstance(error, BatchFailedError)
        assert error.retryable
        assert f"{summary.counts['unsubmitted']} unsubmitted" in error.message

    async def test_another_try_goes_on_and_nothing_is_billed_twice(
        self, quick: Emulator, tmp_path: Path
    ) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(40))
        options = BatchOptions(params=SMALL, concurrency=6, max_cost_usd=1.5)
        batch = Sharded(quick.url, tmp_path / "out", manifest, options)
        await batch.whole(dies={2: 4})
        summary, error, begun = await batch.whole(attempt=2)
        assert error is None
        assert [(shard.number, shard.attempt) for shard in begun] == [(2, 2)]
        assert summary.counts == {"stored": 40}
        assert summary.spent_usd == 1.0
        assert quick.ledger()["billed"] == 40


class TestCap:
    """Whatever the shards do, together they keep to the cap."""

    async def shares(self, quick: Emulator, out: Path, manifest: str, cap: float, of: int) -> list[float]:
        async with (
            WaveSpeedClient("test-key", quick.url) as client,
            Batch(
                client, open_store(str(out)), WHOLE, FOLDER, BatchOptions(params=SMALL, max_cost_usd=cap)
            ) as whole,
        ):
            await whole.read(manifest)
            return list(await whole.quoting.shares_of_cap(cap, of))

    @pytest.mark.parametrize("of", [2, 3, 7, 100])
    async def test_shares_cover_their_quotes_and_come_to_no_more(
        self, quick: Emulator, tmp_path: Path, of: int
    ) -> None:
        rows = [*pictures(17), *pictures(5, num_images=3)]
        manifest, quote = write_manifest(tmp_path / "m.jsonl", rows), 0.025 * (17 + 5 * 3)
        costs = [0.0] * of
        for row in rows:
            costs[lot(row["image"]) % of] += 0.025 * row.get("num_images", 1)
        for cap in (quote, 1.0, 123.456):
            shares = await self.shares(quick, tmp_path / "out", manifest, cap, of)
            assert sum(shares) <= cap + 1e-9
            assert all(share >= cost - 1e-9 for share, cost in zip(shares, costs, strict=True))

    async def test_the_exact_price_is_enough(self, quick: Emulator, tmp_path: Path) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(20))
        batch = Sharded(quick.url, tmp_path / "out", manifest, BatchOptions(params=SMALL, max_cost_usd=0.5))
        summary, error, _ = await batch.whole(3)
        assert error is None
        assert (summary.counts, summary.spent_usd) == ({"stored": 20}, 0.5)

    async def test_a_price_that_rises_stops_the_shards_within_the_cap(
        self, quick: Emulator, tmp_path: Path
    ) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(20))
        batch = Sharded(quick.url, tmp_path / "out", manifest, BatchOptions(params=SMALL, max_cost_usd=0.6))
        async with (
            WaveSpeedClient("test-key", quick.url) as client,
            Batch(client, batch.store, WHOLE, FOLDER, batch.options) as whole,
        ):
            await whole.read(manifest)
            await whole.afford()
            sharded = ShardedBatch(whole, 2, 1)
            begun = await sharded.divide()
            # as if each shard had been told its share before the price rose
            cheaper = [shard.model_copy(update={"max_cost_usd": 0.1}) for shard in begun]
            with pytest.raises(BudgetExceededError):
                await batch.carry_out(cheaper[0])
            assert quick.ledger()["billed"] == 0

    async def test_it_is_shared_out_once_for_all_tries(self, quick: Emulator, tmp_path: Path) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(40))
        options = BatchOptions(params=SMALL, concurrency=6, max_cost_usd=2.0)
        batch = Sharded(quick.url, tmp_path / "out", manifest, options)
        _, _, first = await batch.whole(dies={1: 2, 2: 4})
        _, _, second = await batch.whole(attempt=2)
        assert [shard.max_cost_usd for shard in first] == [shard.max_cost_usd for shard in second]
        assert json.loads((batch.out / FOLDER / "caps.json").read_text()) == [
            shard.max_cost_usd for shard in first
        ]
        assert quick.ledger()["billed"] == 40


async def test_a_shard_that_submitting_stopped_in_stops_the_run_for_the_same_reason(
    quick: Emulator, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(100))
    options = BatchOptions(params=SMALL, concurrency=4, max_cost_usd=2.5)
    batch = Sharded(quick.url, tmp_path / "out", manifest, options)
    failing = {"on": "prediction", "fault": "failed", "code": 5001, "times": 3}
    quick.faults([failing])  # further attempts, which the cap does not cover
    summary, error, _ = await batch.whole()
    assert isinstance(error, BudgetExceededError)
    assert "shard " in error.message
    assert "max_cost_usd" in error.message
    assert 1 <= summary.counts["unsubmitted"] <= 3
    assert sum(summary.counts.values()) == 100


async def test_a_shard_that_nobody_has_begun_says_what_to_do(quick: Emulator, tmp_path: Path) -> None:
    shard = Shard(number=1, of=2, run_id="made up", folder="runs/none")
    with pytest.raises(ConfigurationError, match="leave shard empty and set shards"):
        await shard.share(open_store(str(tmp_path)))


def test_a_shard_has_its_part_of_the_places() -> None:
    shard = Shard(number=1, of=3, run_id="x", folder="y", max_cost_usd=0.5)
    options = shard.options(BatchOptions(concurrency=10, max_cost_usd=1.5, max_failed=0.1, retry_failed=True))
    assert options == BatchOptions(concurrency=4, max_cost_usd=0.5, max_failed=1.0, retry_failed=True)


def test_a_run_without_a_deployment_is_refused_before_anything_is_spent(
    prefect: PrefectServer, quick: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVESPEED_API_KEY", "test-key")
    monkeypatch.setenv("WAVESPEED_BASE_URL", quick.url)
    with prefect.used_here(), pytest.raises(ConfigurationError, match="run it by `prefect deployment run"):
        asyncio.run(restyle_batch([f"{PLACE}/1.jpg"], output=str(tmp_path / "out"), shards=2))
    assert quick.ledger()["calls"]["submit"] == 0
    assert list((tmp_path / "out").rglob("*")) == []
