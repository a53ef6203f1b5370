"""A batch in shards with the real engine against the emulator: joined into one report, also when one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import Progress
from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.sharded_batch import ShardedBatch
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.errors import BatchFailedError, RestyleError, ShardFailedError
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store
from tests.support.batches import pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.engine import QUICK
from tests.support.records import report_rows

FOLDER = "runs/dt=2026-01-01/whole"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE = RunInfo(package_version="test", flow_run_id="whole", flow_run_name="restyle m.jsonl")
SMALL = ReduxParams(size="256*256")


@dataclass
class Sharded:
    """A batch in shards on an output."""

    url: str
    out: Path
    manifest: str
    options: BatchOptions = field(default_factory=lambda: BatchOptions(params=SMALL))

    async def carry_out(self, shard: Shard, dies_after: int | None = None) -> None:
        """Be one of the shards, to its end or until so many rows have an outcome."""
        store, options = open_store(str(self.out)), shard.options(self.options)
        run = shard.run(RunInfo(package_version="test", flow_run_id=f"child {shard.number}"))
        dying = asyncio.Event()

        def on_progress(progress: Progress) -> None:
            if dies_after is not None and progress.finished >= dies_after:
                dying.set()

        async with (
            WaveSpeedClient("test-key", self.url, submit_timeout=1, timeout=2) as client,
            Batch(
                client,
                store,
                run,
                shard.path,
                options,
                share=await shard.share(store),
                since=shard.began if shard.attempt > 1 else None,
                on_progress=on_progress,
            ) as batch,
        ):
            await batch.read(self.manifest)
            await batch.afford()

            async def admit(job: Any, attempt: int, usd: float | None) -> None:
                await batch.admit(job, attempt)

            steps = StepSet(client, store, QUICK, admit=admit)
            submit = partial(steps.submit, run=run, retry_failed=options.retry_failed)
            carrier = Carrier(
                submit, steps.poll, partial(steps.download, run=run), expect_new=steps.expect_new
            )
            work = asyncio.create_task(batch.carry_out(carrier.with_retries()))
            death = asyncio.create_task(dying.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            death.cancel()
            if dying.is_set():
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
            else:
                await work
                await batch.close()

    async def whole(
        self, shards: int = 2, attempt: int = 1, dies_after: dict[int, int] | None = None
    ) -> tuple[Summary, RestyleError | None, list[Shard]]:
        """Be the run that starts the shards and joins their reports."""
        async with (
            WaveSpeedClient("test-key", self.url, submit_timeout=1, timeout=2) as client,
            Batch(
                client,
                open_store(str(self.out)),
                WHOLE,
                FOLDER,
                self.options,
                since=BEGAN if attempt > 1 else None,
            ) as batch,
        ):
            await batch.read(self.manifest)
            await batch.afford()
            sharded = ShardedBatch(batch, shards, attempt, BEGAN)
            started = await sharded.divide()
            dies = dies_after or {}
            await asyncio.gather(*(self.carry_out(shard, dies.get(shard.number)) for shard in started))
            await sharded.finish({number: _crashed(number) for number in sharded.shards})
            summary = await batch.close()
            return summary, batch.verdict(summary), started

    def rows(self) -> list[ReportRow]:
        """The joined report."""
        return report_rows((self.out / FOLDER / "report.jsonl").read_bytes())


def _crashed(number: int) -> RestyleError:
    return ShardFailedError(f"shard {number} ended as Crashed: run it again to continue", retryable=True)


@pytest.fixture(scope="module")
def ready() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.1", "0.2") as running:
        yield running


@pytest.fixture
def quick(ready: Emulator) -> Emulator:
    ready.reset()
    return ready


async def test_the_reports_of_all_shards_are_one_complete_and_in_order(
    quick: Emulator, tmp_path: Path
) -> None:
    twice = [{**row, "sku": number} for number, row in enumerate([*pictures(30), *pictures(3)])]
    options = BatchOptions(params=SMALL, carry="sku")
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", twice), options)
    summary, error, started = await batch.whole(3)
    assert error is None
    assert [shard.label for shard in started] == ["1/3", "2/3", "3/3"]
    assert (summary.row_count, summary.jobs, summary.counts) == (33, 30, {"stored": 33})
    assert (summary.images, summary.spent_usd) == (30, 0.75)
    rows = batch.rows()
    assert [row.row for row in rows] == list(range(1, 34))
    assert [row.id for row in rows] == [row["id"] for row in twice]
    assert [row.carried for row in rows] == [{"sku": number} for number in range(33)]
    assert all(row.prediction_id and row.seconds and row.metadata_uri for row in rows)
    assert [row.cost_usd for row in rows] == [0.025] * 30 + [0.0] * 3
    assert quick.ledger()["billed"] == 30


async def test_side_cars_name_the_whole_run(quick: Emulator, tmp_path: Path) -> None:
    """So that a retry finds what this run has paid for, whichever shard submitted it."""
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(4)))
    await batch.whole()
    cars = [Metadata.model_validate_json(p.read_bytes()) for p in batch.out.glob("images/*/metadata.json")]
    assert {(car.run.flow_run_id, car.run.flow_run_name) for car in cars} == {("whole", "restyle m.jsonl")}
    assert {attempt.flow_run_id for car in cars for attempt in car.attempts} == {"whole"}


async def test_the_gallery_shows_what_the_shards_have_stored(quick: Emulator, tmp_path: Path) -> None:
    batch = Sharded(quick.url, tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(5)))
    await batch.whole()
    page = (batch.out / FOLDER / "gallery.html").read_text()
    assert '"pictures":[0]' in page


class TestOneDies:
    """A shard that is killed in the middle."""

    async def test_its_rows_are_known_from_its_report_parts_and_from_the_ledger(
        self, quick: Emulator, tmp_path: Path
    ) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(40))
        batch = Sharded(quick.url, tmp_path / "out", manifest, BatchOptions(params=SMALL, concurrency=6))
        summary, error, _ = await batch.whole(dies_after={2: 4})
        rows, stored = batch.rows(), len(list(batch.out.glob("images/*/metadata.json")))
        assert [row.row for row in rows] == list(range(1, 41))
        assert summary.counts["stored"] == stored < 40
        assert summary.counts.get("open", 0) + summary.counts["unsubmitted"] == 40 - stored
        assert summary.spent_usd == pytest.approx(0.025 * stored)
        unreported = [row for row in rows if row.status in ("open", "unsubmitted")]
        assert {row.error_type for row in unreported} == {"ShardFailedError"}
        assert all("ended as Crashed" in (row.error_message or "") for row in unreported)
        assert isinstance(error, BatchFailedError)
        assert error.retryable
        assert f"{summary.counts['unsubmitted']} unsubmitted" in error.message

    async def test_another_try_continues_and_nothing_is_billed_twice(
        self, quick: Emulator, tmp_path: Path
    ) -> None:
        manifest = write_manifest(tmp_path / "m.jsonl", pictures(40))
        options = BatchOptions(params=SMALL, concurrency=6, max_cost_usd=1.5)
        batch = Sharded(quick.url, tmp_path / "out", manifest, options)
        await batch.whole(dies_after={2: 4})
        summary, error, started = await batch.whole(attempt=2)
        assert error is None
        assert [(shard.number, shard.attempt) for shard in started] == [(2, 2)]
        assert summary.counts == {"stored": 40}
        assert summary.spent_usd == 1.0
        assert quick.ledger()["billed"] == 40
