"""A batch from manifest to report: outcomes, caps, what stops it and what does not; instant (fake_batch)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import Progress
from prefect_wavespeed.deployments.cli.shared.help import print_error
from prefect_wavespeed.errors import (
    AuthenticationError,
    BatchFailedError,
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidRequestError,
    ManifestError,
    NotFoundError,
    OutputError,
    PredictionFailedError,
    PredictionTimeoutError,
    RateLimitedError,
    RestyleError,
    StoreError,
    UnavailableError,
    UnsureSubmissionError,
)
from tests.support.fake_batch import FakeApi, carry_out, images


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


# --- every row has an outcome ---


async def test_every_row_is_stored_paid_and_reported_in_order(api: FakeApi, tmp_path: Path) -> None:
    progress: list[tuple[str, int, int]] = []
    carried = await carry_out(
        api,
        tmp_path,
        images(70),
        on_progress=lambda now: progress.append((now.doing, now.finished, now.rows)),
    )
    assert carried.error is None
    assert [row.row for row in carried.rows] == list(range(1, 71))
    assert [row.image for row in carried.rows] == images(70)
    assert carried.statuses == ["stored"] * 70
    assert {row.cost_usd for row in carried.rows} == {0.025}
    assert all(row.outputs and row.seconds and row.attempts == 1 for row in carried.rows)
    assert (carried.summary.images, carried.summary.jobs) == (70, 70)
    assert carried.summary.spent_usd == carried.summary.quoted_usd == pytest.approx(1.75)
    assert progress == [
        ("reading the manifest", 0, 0),
        ("checking 70 images", 0, 0),
        *[("looking up what is stored", 0, 70)] * 2,
        *(("restyling", count, 70) for count in range(71)),
        ("writing the report", 70, 70),
        ("done", 70, 70),
    ]
    assert sorted(path.name for path in carried.folder.rglob("*") if path.is_file()) == [
        "gallery.html",
        "report.jsonl",
        "report.parquet",
        "summary.json",
    ]


async def test_what_another_run_has_stored_meanwhile_is_done_and_costs_nothing(
    api: FakeApi, tmp_path: Path
) -> None:
    api.done = {1, 2, 3}
    carried = await carry_out(api, tmp_path, images(4))
    assert carried.statuses == ["done", "done", "done", "stored"]
    assert [row.cost_usd for row in carried.rows] == [0, 0, 0, 0.025]
    assert (carried.summary.spent_usd, carried.summary.images, api.max_in_flight) == (0.025, 1, 1)


async def test_a_prediction_that_another_run_submitted_costs_this_one_nothing(
    api: FakeApi, tmp_path: Path
) -> None:
    api.joined = {1: "other run", 2: "run"}  # the second is of an earlier try of this run
    carried = await carry_out(api, tmp_path, images(3))
    assert carried.statuses == ["stored"] * 3
    assert [row.cost_usd for row in carried.rows] == [0, 0.025, 0.025]


async def test_an_attempt_that_failed_is_made_again(api: FakeApi, tmp_path: Path) -> None:
    api.failing = Counter({2: 2})
    carried = await carry_out(api, tmp_path, images(3))
    assert carried.statuses == ["stored"] * 3
    assert [row.attempts for row in carried.rows] == [1, 3, 1]
    assert sorted(api.submissions) == [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)]


# --- one never stops the others ---


async def test_errors_of_some_images_leave_the_others_alone(api: FakeApi, tmp_path: Path) -> None:
    api.refusals = {3: [InvalidRequestError("refused")], 6: [ValueError("a defect")]}
    api.refusals[7] = [UnsureSubmissionError("it may exist")]
    api.failing = Counter({4: 3})
    api.errors = {5: PredictionTimeoutError("not ready")}
    carried = await carry_out(api, tmp_path, images(10))
    bad = {row.row: (row.status, row.error_type) for row in carried.rows if row.status != "stored"}
    assert bad == {
        3: ("failed", "InvalidRequestError"),
        4: ("failed", "PredictionFailedError"),
        5: ("open", "PredictionTimeoutError"),
        6: ("failed", "RestyleError"),
        7: ("open", "UnsureSubmissionError"),
    }
    assert carried.rows[4].prediction_id == "5-1"
    assert carried.rows[4].cost_usd == 0.025, "it is billed, and its pictures are still to come"
    assert carried.summary.spent_usd == pytest.approx(6 * 0.025)
    assert "unexpected ValueError" in (carried.rows[5].error_message or "")
    assert isinstance(carried.error, BatchFailedError)
    assert "5 of 10 rows failed (" in carried.error.message
    assert "max_failed 0 allows; 5 stored, 3 failed, 2 left open; the report is in " in carried.error.message
    assert not carried.error.retryable


async def test_as_many_may_fail_as_the_options_allow(api: FakeApi, tmp_path: Path) -> None:
    for allowed, is_error in ((0.2, False), (0.1, True)):
        api.refusals = {number: [InvalidRequestError("refused")] for number in (3, 5)}
        carried = await carry_out(api, tmp_path / f"{allowed}", images(10), BatchOptions(max_failed=allowed))
        assert (carried.error is not None) == is_error


async def test_what_an_earlier_run_gave_up_is_reported_and_does_not_fail_this_one(
    api: FakeApi, tmp_path: Path
) -> None:
    given_up = PredictionFailedError(
        "failed: out of memory", flow_run_id="last night", attempt_errors=("a", "b")
    )
    api.refusals = {2: [given_up]}
    carried = await carry_out(api, tmp_path, images(4))
    assert carried.statuses == ["stored", "given_up", "stored", "stored"]
    assert carried.rows[1].error_message == "failed: out of memory"
    assert carried.rows[1].attempt_errors == ["a", "b"]
    assert carried.error is None
    assert carried.summary.errors == {}
    # An earlier try of this run is this run.
    api.refusals = {2: [PredictionFailedError("failed: out of memory", flow_run_id="run")]}
    carried = await carry_out(api, tmp_path / "retried", images(4))
    assert carried.statuses[1] == "failed"
    assert isinstance(carried.error, BatchFailedError)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (StoreError("down"), True),
        (OutputError("cut off"), True),
        (OutputError("too big", retryable=False), False),
        (PredictionTimeoutError("not ready"), False),  # it was waited for long enough
    ],
)
async def test_a_failed_batch_is_retried_if_an_error_may_pass(
    error: RestyleError, retryable: bool, api: FakeApi, tmp_path: Path
) -> None:
    api.errors = {2: error}
    carried = await carry_out(api, tmp_path, images(3))
    assert carried.error is not None
    assert carried.error.retryable == retryable
    assert carried.rows[1].retryable == error.retryable


async def test_what_may_pass_is_tried_again_step_by_step(api: FakeApi, tmp_path: Path) -> None:
    api.refusals = {1: [StoreError("down"), StoreError("down")], 2: [UnavailableError("502")]}
    carried = await carry_out(api, tmp_path, images(3))
    assert carried.statuses == ["stored"] * 3
    assert len(api.submissions) == 3


async def test_an_observer_cannot_stop_a_batch(api: FakeApi, tmp_path: Path) -> None:
    def broken(_: Progress) -> None:
        raise BrokenPipeError

    carried = await carry_out(api, tmp_path, images(12), on_progress=broken)
    assert carried.statuses == ["stored"] * 12


# --- slots ---


async def test_never_more_in_flight_than_asked_for_and_none_waits_for_the_slowest(
    api: FakeApi, tmp_path: Path
) -> None:
    api.ended = {1: asyncio.Event()}
    order: list[int] = []

    def submitted(number: int) -> None:
        order.append(number)
        if len(order) == 60:
            api.ended[1].set()

    api.on_submit = submitted
    async with asyncio.timeout(300):  # for ever, if one of the others waited for the first
        carried = await carry_out(api, tmp_path, images(60), BatchOptions(concurrency=6))
    assert carried.statuses == ["stored"] * 60
    assert sorted(order) == list(range(1, 61))
    assert api.max_in_flight == 6


async def test_without_waiting_slots_stay_occupied_until_predictions_end_and_nothing_is_stored(
    api: FakeApi, tmp_path: Path
) -> None:
    api.seconds = dict.fromkeys(range(1, 21), 0.02)
    carried = await carry_out(api, tmp_path, images(20), BatchOptions(concurrency=5, wait=False))
    assert carried.error is None
    assert carried.statuses == ["submitted"] * 20
    assert api.max_in_flight == 5
    assert (carried.summary.spent_usd, carried.summary.images) == (0.5, 0)
    assert all(row.prediction_id for row in carried.rows)


async def test_without_waiting_a_joined_prediction_that_has_failed_is_submitted_again(
    api: FakeApi, tmp_path: Path
) -> None:
    api.joined = {1: "other run", 2: "other run"}
    api.failing = Counter({2: 1})
    carried = await carry_out(api, tmp_path, images(3), BatchOptions(wait=False))
    assert carried.statuses == ["submitted"] * 3
    assert [row.cost_usd for row in carried.rows] == [0, 0.025, 0.025]
    assert sorted(api.submissions) == [(2, 2), (3, 1)]


# --- the cap ---


@pytest.mark.parametrize("concurrency", [1, 4, 32])
async def test_the_cap_holds_to_the_cent_when_attempts_fail(
    concurrency: int, api: FakeApi, tmp_path: Path
) -> None:
    api.failing = Counter(dict.fromkeys(range(1, 13), 1))
    options = BatchOptions(max_cost_usd=1.0, concurrency=concurrency)
    carried = await carry_out(api, tmp_path, images(40), options)
    assert isinstance(carried.error, BudgetExceededError)
    assert "max_cost_usd 1 is reached" in carried.error.message
    assert "run it again with a higher limit" in carried.error.message
    assert api.charged_usd <= 1 + 1e-9
    assert set(carried.statuses) <= {"stored", "unsubmitted", "failed"}
    assert 20 < carried.statuses.count("stored") < 40
    # those whose first attempt was paid and failed have failed, the others were never sent
    submitted = {number for number, _ in api.submissions}
    for row in carried.rows:
        if row.status != "stored":
            assert (row.status == "failed") == (row.row in submitted)
    assert carried.summary.spent_usd == pytest.approx(0.025 * carried.statuses.count("stored"))


async def test_a_submission_that_may_be_billed_keeps_its_share_of_the_cap(
    api: FakeApi, tmp_path: Path
) -> None:
    lost = InvalidRequestError("the answer was lost, and the history cannot be read")
    lost.may_be_billed = True
    api.refusals, api.failing = {1: [lost]}, Counter({2: 1})
    api.seconds = {2: 0.1}  # its second attempt comes after the first image has failed
    carried = await carry_out(api, tmp_path, images(2), BatchOptions(max_cost_usd=0.05))
    assert isinstance(carried.error, BudgetExceededError)
    assert api.submissions == [(2, 1)]


async def test_a_price_that_rises_meanwhile_stops_the_batch_below_its_cap(
    api: FakeApi, tmp_path: Path
) -> None:
    def dearer(number: int) -> None:
        if len(api.submissions) == 4:
            api.usd = 0.05

    api.on_submit = dearer
    carried = await carry_out(api, tmp_path, images(12), BatchOptions(max_cost_usd=0.3, concurrency=2))
    assert isinstance(carried.error, BudgetExceededError)
    assert api.charged_usd <= 0.3 + 1e-9
    assert "unsubmitted" in carried.statuses


# --- what stops submitting ---


async def test_an_empty_account_stops_submitting_and_what_is_in_flight_is_stored(
    api: FakeApi, tmp_path: Path
) -> None:
    def emptied(number: int) -> None:
        if len(api.submissions) == 5:
            api.balance_usd = 0.01
            empty = InsufficientCreditsError("insufficient credits")
            api.refusals = {n: [empty] for n in range(1, 21)}

    api.on_submit = emptied
    api.on_balance = lambda: 0.05 if api.submissions else 0.0  # it answers late
    carried = await carry_out(api, tmp_path, images(20), BatchOptions(concurrency=4))
    assert isinstance(carried.error, InsufficientCreditsError)
    stored = carried.statuses.count("stored")
    assert stored == len(api.submissions)
    assert carried.statuses.count("unsubmitted") == 20 - stored
    assert api.refused <= 4  # those that held a slot, and no more
    assert f"(of 20 rows {stored} stored, {20 - stored} not submitted; the" in carried.error.message


@pytest.mark.parametrize("kind", [AuthenticationError, InsufficientCreditsError, NotFoundError])
async def test_an_image_that_is_refused_like_a_key_or_an_empty_account_stops_nothing(
    kind: type[RestyleError], api: FakeApi, tmp_path: Path
) -> None:
    api.refusals = {3: [kind("refused")]}
    carried = await carry_out(api, tmp_path, images(12), BatchOptions(concurrency=2))
    assert [row.row for row in carried.rows if row.status == "failed"] == [3]
    assert carried.statuses.count("stored") == 11


@pytest.mark.parametrize("kind", [AuthenticationError, InsufficientCreditsError, NotFoundError])
@pytest.mark.parametrize("readable", [True, False])
async def test_a_refusal_that_all_meet_stops_submitting_whatever_the_balance_call_says(
    kind: type[RestyleError], readable: bool, api: FakeApi, tmp_path: Path
) -> None:
    def unreadable() -> float:
        if not readable and api.refused:
            raise UnavailableError("the balance cannot be read")
        return 0.0

    def emptied(number: int) -> None:
        api.refusals = {n: [kind("refused")] for n in range(1, 41)}

    api.on_submit, api.on_balance = emptied, unreadable
    carried = await carry_out(api, tmp_path, images(40), BatchOptions(concurrency=1))
    assert isinstance(carried.error, kind)
    assert api.refused == 3
    assert carried.statuses.count("unsubmitted") > 30


async def test_an_api_that_asks_to_wait_for_hours_stops_submitting_instead_of_failing_every_job(
    api: FakeApi, tmp_path: Path
) -> None:
    api.refusals = {n: [RateLimitedError("slow down", retry_after=7200.0)] for n in range(1, 13)}
    carried = await carry_out(api, tmp_path, images(12), BatchOptions(concurrency=1))
    assert isinstance(carried.error, RateLimitedError)
    assert carried.error.retryable
    assert api.refused == 1
    assert carried.statuses == ["unsubmitted"] * 12


async def test_a_key_that_is_refused_stops_everything(api: FakeApi, tmp_path: Path) -> None:
    def revoked(number: int) -> None:
        api.balance_usd = None
        api.refusals = {n: [AuthenticationError("the key is refused")] for n in range(1, 13)}

    api.on_submit = revoked
    carried = await carry_out(api, tmp_path, images(12), BatchOptions(concurrency=1))
    assert isinstance(carried.error, AuthenticationError)
    assert not carried.error.retryable
    assert carried.statuses == ["stored"] + ["unsubmitted"] * 11
    assert {row.error_type for row in carried.rows[1:]} == {"AuthenticationError"}


# --- bad rows ---


async def test_bad_rows_are_refused_before_anything_is_spent_with_the_first_of_them(
    api: FakeApi, tmp_path: Path
) -> None:
    manifest = [*images(3), *(f"ftp://example.com/{number}.jpg" for number in range(7))]
    with pytest.raises(ManifestError) as caught:
        await carry_out(api, tmp_path / "out", manifest)
    assert caught.value.message.startswith("7 of 10 rows cannot be used: row 4: ")
    assert "; and 2 more: fix them, or skip them with on_bad_row=skip; nothing was" in caught.value.message
    with pytest.raises(ManifestError, match="fix them; nothing was submitted"):
        await carry_out(api, tmp_path / "out", manifest[3:], BatchOptions(on_bad_row="skip"))
    assert api.submissions == []


async def test_a_skipped_row_counts_as_failed_if_its_image_is_missing_and_not_if_it_is_invalid(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<html>")
    rows = [{"image": image} for image in images(2)]
    rows += [
        {"image": str(tmp_path / "gone.jpg")},
        {"image": str(page), "id": "page"},
        {"image": "ftp://a/b"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    for allowed in (0.3, 0.4):
        options = BatchOptions(on_bad_row="skip", max_failed=allowed)
        carried = await carry_out(api, tmp_path / f"{allowed}", str(manifest), options)
        assert carried.statuses == ["stored", "stored", "failed", "failed", "invalid"]
        assert [row.error_type for row in carried.rows[2:]] == ["SourceError", "SourceError", "BadRow"]
        assert carried.summary.errors == {"SourceError": 2}
        assert (carried.error is None) == (allowed == 0.4)
        if carried.error:
            assert "2 of 5 rows failed (2 SourceError)" in carried.error.message
            assert "\n" not in carried.error.message
            assert "2 stored, 2 failed, 1 row ignored" in carried.error.message
            assert carried.error.details == tuple(carried.summary.closing_lines)
            print_error(carried.error, as_json=True)
            shown = json.loads(capsys.readouterr().out)
            assert shown["error"]["type"] == "BatchFailedError"
            assert shown["summary"] == json.loads(carried.summary.model_dump_json())
        assert carried.summary.outcome == "2 stored, 2 failed, 1 row ignored"
        missing, page_line, ignored, every_row = carried.summary.failure_lines
        assert missing == f"1 failed: no such file: image {tmp_path}/gone.jpg: row 3"
        assert page_line.startswith("1 failed: ")
        assert page_line.endswith(": page")
        assert ignored.startswith("1 ignored: unsupported scheme")
        assert every_row == f"every row: restyle failures --out {tmp_path}/{allowed} --run run"
