"""A batch with the real engine against the emulator: one report, one bill an image."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.report import thumbnails
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.errors import BudgetExceededError, UnansweredSubmissionError
from prefect_wavespeed.job import NsfwPolicy, RunInfo
from prefect_wavespeed.ledger.ledger import now
from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import open_store
from tests.support.batches import SITE, pictures, restyle_all, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO

SMALL = ReduxParams(size="256*256")
OPTIONS = BatchOptions(params=SMALL)
PATIENT = Settings(lease_seconds=30, submit_timeout_seconds=10, reconcile_seconds=1, poll_timeout_seconds=60)


@pytest.fixture(scope="module")
def prerendered() -> Iterator[Emulator]:
    """An emulator with pictures made beforehand: quick, and no source need exist."""
    with Emulator("--prerendered", "--latency", "0.2", "0.4") as emulator:
        yield emulator


@pytest.fixture
def api(prerendered: Emulator) -> Iterator[Emulator]:
    prerendered.reset()
    yield prerendered
    prerendered.reset()


def gallery_rows(folder: Path) -> list[dict[str, Any]]:
    """The first rows of a run's gallery."""
    page = (folder / "gallery.html").read_text()
    rows: list[dict[str, Any]] = json.loads(page.partition('data-is="rows">')[2].partition("</script>")[0])
    return rows


def _mills(api: Emulator) -> int:
    """Thousandths of a USD that all predictions together were priced at."""
    return sum(round(1000 * p["price"]) for p in api.ledger()["predictions"])


async def test_every_row_is_stored_reported_and_billed_once(api: Emulator, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(30))
    first = await restyle_all(api.url, str(tmp_path / "out"), manifest, OPTIONS)
    assert first.error is None
    assert [row.row for row in first.rows] == list(range(1, 31))
    assert first.statuses == ["stored"] * 30
    assert [row.id for row in first.rows] == [f"n{n}" for n in range(1, 31)]
    for row in first.rows:
        assert row.outputs[0].startswith(str(tmp_path / "out"))
        assert Path(row.outputs[0]).is_file()
        metadata = Metadata.model_validate_json(Path(row.metadata_uri or "").read_bytes())
        assert (metadata.prediction.id, metadata.request.seed) == (row.prediction_id, row.seed)
        assert metadata.run.flow_run_id == first.summary.flow_run_id
    ledger = api.ledger()
    assert (ledger["billed"], ledger["spent"]) == (30, 0.75)
    assert (first.summary.spent_usd, first.summary.quoted_usd, first.summary.images) == (0.75, 0.75, 30)
    assert first.summary.latency_p50
    assert first.summary.latency_p95
    assert first.summary.latency_p50 <= first.summary.latency_p95

    again = await restyle_all(api.url, str(tmp_path / "out"), manifest, OPTIONS)
    assert again.statuses == ["done"] * 30
    assert again.summary.spent_usd == 0
    assert [row.outputs for row in again.rows] == [row.outputs for row in first.rows]
    assert api.ledger()["billed"] == 30


async def test_rows_that_ask_for_the_same_share_one_prediction(api: Emulator, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*pictures(3), *pictures(2, seed=-1), *pictures(1, variant=1)]
    result = await restyle_all(
        api.url, str(tmp_path / "out"), write_manifest(tmp_path / "m.jsonl", rows), OPTIONS
    )
    assert result.statuses == ["stored"] * 6
    assert result.summary.jobs == 4
    keys = [row.job_key for row in result.rows]
    assert keys[3:5] == keys[:2]
    assert len(set(keys)) == 4
    assert result.rows[3].outputs == result.rows[0].outputs
    assert sum(row.cost_usd or 0 for row in result.rows) == pytest.approx(0.1)
    assert api.ledger()["billed"] == 4


async def test_local_files_and_their_parameters_become_jobs_like_those_of_single_images(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "_MAX_READ", 0)
    emulator.faults([{"on": "prediction", "fault": "failed", "match": {"seed": 3}, "times": 3}])
    rows: list[dict[str, Any]] = [
        {"image": str(PHOTO), "num_images": 2},
        {"image": str(PHOTO), "output_format": "png"},
        {"image": str(PHOTO), "seed": 3},
    ]
    result = await restyle_all(
        emulator.url, str(tmp_path / "out"), write_manifest(tmp_path / "m.jsonl", rows), OPTIONS
    )
    assert [len(row.outputs) for row in result.rows] == [2, 1, 0]
    assert result.rows[1].outputs[0].endswith("/1.png")
    assert result.rows[2].status == "failed"
    shown = gallery_rows(tmp_path / "out" / result.folder)
    assert None not in [row["source"] for row in shown], "made while the file was read to be uploaded"
    assert [len(row.get("pictures", [])) for row in shown] == [2, 1, 0]
    assert None not in [picture for row in shown for picture in row.get("pictures", [])]


@pytest.mark.parametrize(
    ("policy", "kept_in", "pictured"),
    [("keep", "images", 2), ("quarantine", "quarantine", 0), ("drop", None, 0)],
)
async def test_a_flag_is_in_the_account_and_the_gallery_pictures_nothing_that_was_not_kept(
    policy: NsfwPolicy,
    kept_in: str | None,
    pictured: int,
    api: Emulator,
    tmp_path: Path,
) -> None:
    api.faults([{"on": "prediction", "fault": "nsfw", "match": {"seed": 2}}])
    options = OPTIONS.model_copy(update={"nsfw": policy, "nsfw_unchecked": "keep"})
    rows = [{"image": f"{SITE}/1.jpg", "seed": seed, "num_images": 2} for seed in (1, 2)]
    result = await restyle_all(
        api.url, str(tmp_path / "out"), write_manifest(tmp_path / "m.jsonl", rows), options
    )
    assert [row.flagged for row in result.rows] == [[], [1, 2]]
    assert result.summary.flagged == 2
    safe, unsafe = gallery_rows(tmp_path / "out" / result.folder)
    assert unsafe["flagged"] == [1, 2]
    assert [path.split("/")[1] for path in unsafe.get("outputs", [])] == [kept_in] * bool(kept_in) * 2
    assert unsafe.get("quarantined", []) == ([1, 2] if kept_in == "quarantine" else [])
    assert len(safe["pictures"]) == 2
    assert None not in safe["pictures"]
    assert sum(picture is not None for picture in unsafe.get("pictures", [])) == pictured


async def test_one_bad_image_never_stops_the_others(api: Emulator, tmp_path: Path) -> None:
    api.faults(
        [
            {
                "on": "prediction",
                "fault": "failed",
                "code": 1402,
                "times": None,
                "match": {"image": "/3.jpg"},
            },
            {"on": "submit", "fault": "refused", "status": 400, "times": None, "match": {"image": "/5.jpg"}},
        ]
    )
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(10))
    result = await restyle_all(api.url, str(tmp_path / "out"), manifest, OPTIONS)
    assert [row.row for row in result.rows if row.status == "failed"] == [3, 5]
    assert result.statuses.count("stored") == 8
    assert result.summary.errors == {"PredictionFailedError": 1, "InvalidRequestError": 1}
    message = str(result.error)
    assert "2 of 10 rows failed" in message
    assert "1 PredictionFailedError" in message
    assert "1 InvalidRequestError" in message

    tolerant = BatchOptions(params=SMALL, max_failed=0.2)
    assert (await restyle_all(api.url, str(tmp_path / "out"), manifest, tolerant)).error is None


async def test_the_cap_is_kept_to_the_cent_when_predictions_must_be_made_again_and_a_rerun_finishes(
    api: Emulator, tmp_path: Path
) -> None:
    """Each of the first ten attempts fails and is made again, so that 20 attempts would exceed the cap."""
    api.faults([{"on": "prediction", "fault": "failed", "code": 5000, "times": 10}])
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(20))
    options = BatchOptions(params=SMALL, max_cost_usd=0.5, concurrency=4)
    result = await restyle_all(api.url, str(tmp_path / "out"), manifest, options)
    assert isinstance(result.error, BudgetExceededError)
    assert "run it again with a higher limit" in result.error.message
    assert _mills(api) <= 1000 * 0.5
    left = result.statuses.count("unsubmitted") + result.statuses.count("failed")
    assert 0 < left < 20
    assert set(result.statuses) <= {"stored", "unsubmitted", "failed"}

    higher = BatchOptions(params=SMALL, max_cost_usd=5)
    finished = await restyle_all(api.url, str(tmp_path / "out"), manifest, higher)
    assert finished.error is None
    assert set(finished.statuses) == {"done", "stored"}
    assert api.ledger()["billed"] == 20


async def test_the_cap_holds_when_the_price_rises_while_submissions_are_paused(
    api: Emulator, tmp_path: Path
) -> None:
    api.faults([{"on": "submit", "fault": "refused", "status": 429, "retry_after": 2, "times": 4}])
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(4))
    options = BatchOptions(params=SMALL, max_cost_usd=0.1, concurrency=4)

    async def raise_price() -> None:
        while not api.ledger()["calls"]["submit"]:
            await asyncio.sleep(0.05)
        api.price(0.05)

    result, _ = await asyncio.gather(
        restyle_all(api.url, str(tmp_path / "out"), manifest, options, settings=PATIENT), raise_price()
    )
    assert isinstance(result.error, BudgetExceededError)
    assert _mills(api) <= 100


@pytest.mark.e2e  # it takes its time
async def test_while_the_api_is_down_a_batch_stops_submitting_and_the_next_night_finishes_it(
    api: Emulator, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(40))
    options = OPTIONS.model_copy(update={"concurrency": 10})
    settings = PATIENT.model_copy(update={"lease_seconds": 8, "submit_timeout_seconds": 1})
    api.faults([{"on": "submit", "fault": "refused", "status": 503, "times": None}])
    down = await restyle_all(api.url, str(tmp_path / "out"), manifest, options, settings=settings)
    assert isinstance(down.error, UnansweredSubmissionError)
    assert "HTTP 503" in down.error.message
    assert down.statuses.count("unsubmitted") >= 20
    assert api.ledger()["calls"]["submit"] <= 60, "it stops instead of asking for every image"
    assert not list((tmp_path / "out").glob("failed/*"))

    api.faults([])
    night = await restyle_all(api.url, str(tmp_path / "out"), manifest, options, settings=settings)
    assert night.statuses == ["stored"] * 40
    assert api.ledger()["billed"] == 40


async def test_what_is_in_flight_is_not_billed_to_a_rerun(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(10))
    with Emulator("--prerendered", "--latency", "0.2", "0.4", "--balance", "0.3") as api:
        left = BatchOptions(params=SMALL, wait=False)
        first = await restyle_all(api.url, str(tmp_path / "out"), manifest, left)
        assert first.summary.spent_usd == pytest.approx(0.25)
        again = await restyle_all(
            api.url, str(tmp_path / "out"), manifest, BatchOptions(params=SMALL, max_cost_usd=0.01)
        )
    assert again.statuses == ["stored"] * 10
    assert (again.summary.quoted_usd, again.summary.spent_usd) == (0, 0)


async def test_without_waiting_a_failed_attempt_is_made_again_by_the_next_run(
    api: Emulator, tmp_path: Path
) -> None:
    api.faults([{"on": "prediction", "fault": "failed", "code": 5000, "times": 3}])
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(3))
    left = BatchOptions(params=SMALL, wait=False)
    await restyle_all(api.url, str(tmp_path / "out"), manifest, left)
    while api.ledger()["in_flight"]:
        await asyncio.sleep(0.1)
    await restyle_all(api.url, str(tmp_path / "out"), manifest, left)
    assert len(api.ledger()["predictions"]) == 6
    assert (await restyle_all(api.url, str(tmp_path / "out"), manifest, OPTIONS)).statuses == ["stored"] * 3
    assert api.ledger()["billed"] == 3


async def test_a_dry_run_counts_what_is_stored_open_or_failed_and_spends_nothing(
    api: Emulator, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    await restyle_all(api.url, out, write_manifest(tmp_path / "few.jsonl", pictures(4)), OPTIONS)
    api.faults([{"on": "prediction", "fault": "failed", "code": 1402, "match": {"image": "/5.jpg"}}])
    await restyle_all(api.url, out, write_manifest(tmp_path / "failed.jsonl", pictures(5)[4:]), OPTIONS)
    await restyle_all(
        api.url,
        out,
        write_manifest(tmp_path / "open.jsonl", pictures(7)[5:]),
        BatchOptions(params=SMALL, wait=False),
    )
    spent = api.ledger()["calls"]["submit"]
    rows = [*pictures(10), {"image": "nothing.jpg"}]
    for retry_failed, failed in ((False, 1), (True, 0)):
        options = BatchOptions(params=SMALL, on_bad_row="skip", retry_failed=retry_failed)
        async with (
            WaveSpeedClient("test-key", api.url) as client,
            Batch(
                client,
                open_store(out),
                RunInfo(package_version="test"),
                layout.run(now(), "dry"),
                options,
            ) as batch,
        ):
            await batch.read(write_manifest(tmp_path / "m.jsonl", rows))
            quote = await batch.quote()
        assert (quote.rows, quote.unusable, quote.jobs, quote.done, quote.open) == (11, 1, 10, 4, 2)
        assert (quote.failed, quote.billed) == (failed, 4 - failed)
        assert quote.usd == pytest.approx(0.025 * quote.billed)
    assert api.ledger()["calls"]["submit"] == spent
    assert not (tmp_path / "out" / layout.run(now(), "dry")).exists()


async def test_without_waiting_all_is_submitted_within_the_slots_and_left_to_settle(
    api: Emulator, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(20))
    options = BatchOptions(params=SMALL, concurrency=5, wait=False)
    result = await restyle_all(api.url, str(tmp_path / "out"), manifest, options)
    assert result.error is None
    assert result.statuses == ["submitted"] * 20
    assert result.summary.spent_usd == 0.5
    ledger = api.ledger()
    assert len(ledger["predictions"]) == 20
    assert ledger["max_in_flight"] == 5
    assert not (tmp_path / "out" / "images").exists()

    finished = await restyle_all(api.url, str(tmp_path / "out"), manifest, OPTIONS)
    assert finished.statuses == ["stored"] * 20
    assert finished.summary.spent_usd == 0  # the first run has paid
    assert api.ledger()["billed"] == 20


async def test_runs_that_share_their_images_report_together_what_was_billed(
    api: Emulator, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(30))
    two = [restyle_all(api.url, str(tmp_path / "out"), manifest, OPTIONS) for _ in range(2)]
    results = await asyncio.gather(*two)
    for result in results:
        assert set(result.statuses) <= {"stored", "done"}
        reported = sum(row.cost_usd or 0 for row in result.rows)
        assert result.summary.spent_usd == pytest.approx(reported)
    assert sum(result.summary.spent_usd for result in results) == pytest.approx(0.75)
    assert api.ledger()["billed"] == 30


async def test_an_earlier_try_of_the_same_run_counts_against_its_cap(api: Emulator, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    few = write_manifest(tmp_path / "few.jsonl", pictures(4))
    await restyle_all(api.url, out, few, OPTIONS, run_id="the-run")
    api.faults([{"on": "prediction", "fault": "failed", "code": 5000, "times": 4}])
    manifest = write_manifest(tmp_path / "m.jsonl", pictures(8))
    options = BatchOptions(params=SMALL, max_cost_usd=0.2, concurrency=2)
    again = await restyle_all(
        api.url, out, manifest, options, run_id="the-run", since=datetime.now(UTC) - timedelta(hours=1)
    )
    assert again.statuses[:4] == ["stored"] * 4
    assert isinstance(again.error, BudgetExceededError)
    assert _mills(api) <= 200
    assert again.summary.spent_usd == pytest.approx(0.025 * again.statuses.count("stored"))
