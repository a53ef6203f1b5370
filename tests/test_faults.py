"""Everything that can go wrong at WaveSpeedAI, once each: what becomes of the job, and what it costs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import (
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    OutputError,
    PredictionFailedError,
    PredictionTimeoutError,
    RestyleError,
    UnansweredSubmissionError,
    UnavailableError,
)
from prefect_wavespeed.inspect.advice import reason
from prefect_wavespeed.inspect.jobs import jobs
from prefect_wavespeed.storage.open_store import open_store
from tests.support.emulator_process import Emulator
from tests.support.engine import QUICK, SMALL, restyle

STORED = None


@dataclass
class Case:
    """A script of faults, what the job comes to, and what was billed and created for it."""

    name: str
    rules: list[dict[str, Any]]
    error: type[RestyleError] | None = STORED
    billed: int = 1
    created: int = 1
    buried: bool = False
    params: ReduxParams = SMALL
    outputs: int = 1
    causes: Sequence[str] = ()  # what each attempt says of itself


def submit(fault: str, **more: Any) -> list[dict[str, Any]]:
    return [{"on": "submit", "fault": fault, **more}]


def result(fault: str, **more: Any) -> list[dict[str, Any]]:
    return [{"on": "result", "fault": fault, "times": 2, **more}]


def cdn(fault: str, **more: Any) -> list[dict[str, Any]]:
    return [{"on": "cdn", "fault": fault, "match": {"image": "astronaut"}, **more}]


def ends(fault: str, **more: Any) -> list[dict[str, Any]]:
    return [{"on": "prediction", "fault": fault, **more}]


UNKNOWN = [*result("status", status=404, times=None), *ends("unlisted", seconds=60)]
SYNC = SMALL.model_copy(update={"enable_sync_mode": True})
INLINE = SMALL.model_copy(update={"enable_base64_output": True})
INLINE_SYNC = SYNC.model_copy(update={"enable_base64_output": True, "num_images": 2})

CASES = [
    Case("nothing", []),
    Case("nothing, in sync mode", [], params=SYNC),
    Case("nothing, with base64 outputs", [], params=INLINE),
    Case("nothing, two base64 outputs in sync mode", [], params=INLINE_SYNC, outputs=2),
    # the submission
    Case("submit refused with 429, with a wait", submit("refused", status=429, retry_after=1, times=2)),
    Case("submit refused with 429, without a wait", submit("refused", status=429)),
    Case("submit refused with 429 in the envelope", submit("refused", status=429, enveloped=True)),
    Case("submit answered with 503, nothing created", submit("refused", status=503)),
    Case("submit refused with 400", submit("refused", status=400), InvalidRequestError, 0, 0),
    Case("submit refused with 401", submit("refused", status=401), AuthenticationError, 0, 0),
    Case("submit refused with 402", submit("refused", status=402), InsufficientCreditsError, 0, 0),
    Case("submit refused with 403", submit("refused", status=403), AuthenticationError, 0, 0),
    Case("submit refused with 404", submit("refused", status=404), NotFoundError, 0, 0),
    Case("submit redirected", submit("redirect", location="https://example.com/")),
    Case("submit dropped before creation", submit("drop_before")),
    Case("submit dropped after creation", submit("drop_after")),
    Case("submit dropped, created later", submit("late", seconds=0.5)),
    Case("submit answered with 504 after creation", submit("status_after", status=504)),
    Case("submit answered with 500 after creation", submit("status_after", status=500)),
    Case("submit hangs before creation", submit("hang_before")),
    Case("submit hangs after creation", submit("hang_after")),
    Case("submit answered with garbage, nothing created", submit("garbage_before")),
    Case("submit answered with garbage after creation", submit("garbage")),
    Case("submit answered without an id", submit("no_id")),
    Case("submit dropped after creation, in sync mode", submit("drop_after"), params=SYNC),
    Case("sync mode gives up waiting", submit("sync_timeout"), params=SYNC),
    Case("submit dropped before creation, twice", submit("drop_before", times=2)),
    Case(
        "submit answered with 503 three times",
        submit("refused", status=503, times=3),
        UnansweredSubmissionError,
        0,
        0,
        causes=["HTTP 503"] * 3,
    ),
    Case(
        "submit dropped after creation, the history slow to show it",
        [*submit("drop_after"), *ends("unlisted", seconds=0.6)],
    ),
    Case(
        "submit dropped after creation, the history failing",
        [*submit("drop_after"), {"on": "history", "fault": "status", "status": 503, "times": 2}],
    ),
    Case(
        "submit dropped after creation, twice 429 before it",
        [*submit("refused", status=429, times=2), *submit("drop_after")],
    ),
    # the result
    Case("result answered with 429", result("status", status=429, retry_after=1)),
    Case("result answered with 500", result("status", status=500)),
    Case("result answered with 502", result("html")),
    Case("result answered with 503", result("status", status=503, retry_after=1)),
    Case("result answered with 504", result("status", status=504)),
    Case("result dropped", result("drop")),
    Case("result is garbage", result("garbage")),
    Case("result hangs", result("hang", times=1)),
    Case("result unknown for a moment", result("status", status=404)),
    Case(
        "result unknown for good, and not in the history",
        UNKNOWN,
        PredictionFailedError,
        buried=True,
    ),
    Case(
        "result unknown, though the history lists it",
        result("status", status=404, times=None),
        PredictionTimeoutError,
    ),
    Case("result refused with 401", result("status", status=401), AuthenticationError),
    # the outputs
    Case("output answered with 404", cdn("status", status=404)),
    Case("output answered with 500", cdn("status", status=500)),
    Case("output dropped", cdn("drop")),
    Case("output truncated", cdn("truncated")),
    Case("output half a picture", cdn("corrupt")),
    Case("output a web page", cdn("html")),
    Case("output of another format", cdn("wrong_format")),
    Case("output slow", cdn("slow", seconds=1)),
    Case("output truncated for good", cdn("truncated", times=None), OutputError, causes=["download failed"]),
    Case("output URLs expired", ends("expired")),
    # how a prediction ends
    Case("fails with 5000", ends("failed", code=5000), created=2),
    Case("fails with 5003", ends("failed", code=5003), created=2),
    Case("fails with 5004", ends("failed", code=5004), created=2),
    Case("ends with timeout", ends("timeout"), created=2),
    Case("fails with 5000, twice", ends("failed", code=5000, times=2), created=3),
    Case(
        "fails with 5000, for good",
        ends("failed", times=None),
        PredictionFailedError,
        0,
        3,
        buried=True,
        causes=["code 5000"] * 3,
    ),
    *(
        Case(f"fails with {code}", ends("failed", code=code), PredictionFailedError, 0, buried=True)
        for code in (1200, 1400, 1401, 1402, 1403, 1405)
    ),
    Case("is cancelled", ends("cancelled"), PredictionFailedError, 0, buried=True),
    Case("is deleted", ends("deleted"), PredictionFailedError, buried=True),
    Case("is stuck", ends("stuck"), PredictionTimeoutError),
    Case("completes without outputs", ends("no_outputs"), PredictionFailedError, buried=True),
    Case("sends data URIs", ends("data_uri"), params=INLINE),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_whatever_goes_wrong_the_job_ends_as_it_should_and_is_billed_once_at_most(
    case: Case, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults(case.rules)
    waits = case.error is PredictionTimeoutError
    settings = QUICK.model_copy(update={"poll_timeout_seconds": 1}) if waits else QUICK
    if case.error is STORED:
        restyled = await restyle(emulator.url, str(tmp_path), params=case.params, settings=settings)
        assert not restyled.cached
        assert len(restyled.outputs) == case.outputs
        assert all(Path(output.uri or "").stat().st_size == output.bytes for output in restyled.outputs)
        assert Path(restyled.metadata_uri).exists()
        assert not list(tmp_path.glob("open/*/*.json"))
    else:
        with pytest.raises(case.error) as caught:
            await restyle(emulator.url, str(tmp_path), params=case.params, settings=settings)
        assert isinstance(caught.value, RestyleError)
        await check_causes(case, tmp_path, caught.value)
        assert not list(tmp_path.glob("images/*/metadata.json"))
    assert bool(list(tmp_path.glob("failed/*.json"))) is case.buried
    ledger = emulator.ledger()
    assert (ledger["billed"], len(ledger["predictions"])) == (case.billed, case.created)

    # Nothing that goes wrong today keeps the job from being finished tomorrow, at no further cost.
    if case.error is STORED or case.error in (OutputError, PredictionTimeoutError, UnansweredSubmissionError):
        emulator.faults([])
        if case.name == "is stuck":
            return  # it never ends there; see the test below
        again = await restyle(emulator.url, str(tmp_path), params=case.params)
        assert again.cached is (case.error is STORED)
        assert emulator.ledger()["billed"] == 1


async def check_causes(case: Case, output: Path, error: RestyleError) -> None:
    """Each attempt says why it failed: in the error, and in what the output holds of the job."""
    if not case.causes:
        return
    (job,) = [job async for job in jobs(open_store(str(output)))]
    kept = [attempt.error for attempt in job.letter.attempts] if job.letter else list(job.errors.values())
    for errors in (kept, error.attempt_errors or [error.message]):
        assert len(errors) == len(case.causes)
        assert all(cause in (error or "") for cause, error in zip(case.causes, errors, strict=True))
    assert reason(job).startswith(str(kept[-1]))


async def test_a_job_that_failed_for_good_says_so_at_once_until_it_is_run_with_retry_failed(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults(ends("failed", code=1200, message="not this one"))
    for _ in range(2):
        with pytest.raises(PredictionFailedError, match="not this one") as caught:
            await restyle(emulator.url, str(tmp_path))
        assert (caught.value.code, caught.value.retryable) == (1200, False)
    assert len(emulator.ledger()["predictions"]) == 1

    restyled = await restyle(emulator.url, str(tmp_path), retry_failed=True)
    assert not list(tmp_path.glob("failed/*")), "a job that is done has no dead letter"
    assert emulator.ledger()["billed"] == 1
    attempts = json.loads(Path(restyled.metadata_uri).read_text())["attempts"]
    assert [attempt["prediction_id"] for attempt in attempts] == [restyled.prediction_id]


async def test_a_dead_letter_and_a_side_car_end_with_a_newline(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults(ends("failed", code=1200))
    with pytest.raises(PredictionFailedError):
        await restyle(emulator.url, str(tmp_path))
    await restyle(emulator.url, str(tmp_path), variant=1)
    for (path,) in (tmp_path.glob("failed/*.json"), tmp_path.glob("images/*/metadata.json")):
        assert path.read_text().endswith("\n}\n")


async def test_a_run_with_retry_failed_that_is_retried_pays_once(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults(ends("no_outputs", times=None))
    for run_id, created in (("first", 1), ("second", 2), ("second", 2), ("third", 3)):
        with pytest.raises(PredictionFailedError, match="without outputs"):
            await restyle(emulator.url, str(tmp_path), retry_failed=True, run_id=run_id)
        assert len(emulator.ledger()["predictions"]) == created


async def test_a_prediction_that_comes_to_something_after_all_is_taken_up_and_not_paid_again(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults(UNKNOWN)
    with pytest.raises(PredictionFailedError, match="no longer knows"):
        await restyle(emulator.url, str(tmp_path))
    emulator.faults([])
    await restyle(emulator.url, str(tmp_path), retry_failed=True)
    assert len(emulator.ledger()["predictions"]) == 1


async def test_results_that_are_unknown_now_and_then_bury_nothing(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults(
        [
            *ends("slow", seconds=2),
            *(rule for skip in range(0, 12, 2) for rule in result("status", status=404, skip=skip, times=1)),
        ]
    )
    await restyle(emulator.url, str(tmp_path))
    assert emulator.ledger()["billed"] == 1


async def test_a_job_that_was_submitted_elsewhere_is_left_to_be_finished_there(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults(ends("slow", seconds=2))
    impatient = QUICK.model_copy(update={"poll_timeout_seconds": 0.5})
    with pytest.raises(PredictionTimeoutError):
        await restyle(emulator.url, str(tmp_path), settings=impatient)
    (record,) = tmp_path.glob("open/*/1.prediction.json")
    with Emulator("--latency", "0", "0.1") as elsewhere:
        for known in ("its prediction", "no more than its claim"):
            with pytest.raises(ConfigurationError, match=emulator.url):
                await restyle(elsewhere.url, str(tmp_path))
            assert not elsewhere.ledger()["predictions"], known
            record = record.rename(tmp_path / "aside") if known == "its prediction" else record
    record.rename(next(tmp_path.glob("open/*")) / "1.prediction.json")
    await restyle(emulator.url, str(tmp_path))
    assert emulator.ledger()["billed"] == 1


async def test_a_history_that_is_down_uses_up_no_attempts(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults(submit("drop_before"))  # so that a claim is left behind and nothing was created
    impatient = QUICK.model_copy(update={"reconcile_seconds": 0.1})
    task = asyncio.create_task(restyle(emulator.url, str(tmp_path), settings=impatient))
    while not list(tmp_path.glob("open/*/1.claim.json")):
        await asyncio.sleep(0.01)
    while not emulator.ledger()["calls"]["submit"]:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    emulator.faults([{"on": "history", "fault": "status", "status": 503, "times": None}])
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await restyle(emulator.url, str(tmp_path))
        assert [path.name for path in tmp_path.glob("open/*/*.claim.json")] == ["1.claim.json"]
    emulator.faults([])
    restyled = await restyle(emulator.url, str(tmp_path))
    attempts = json.loads(Path(restyled.metadata_uri).read_text())["attempts"]
    assert len(attempts) == 2
    assert emulator.ledger()["billed"] == 1


async def test_an_abandoned_claim_from_the_future_is_waited_for_no_longer_than_its_lease(
    emulator: Emulator, tmp_path: Path
) -> None:
    """A store's clock may be set back, and a share may date files as it likes."""
    emulator.faults(submit("hang_before"))
    task = asyncio.create_task(restyle(emulator.url, str(tmp_path)))
    while not emulator.ledger()["calls"]["submit"]:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (claim,) = tmp_path.glob("open/*/1.claim.json")
    later = time.time() + 10 * 365 * 24 * 3600
    os.utime(claim, (later, later))
    async with asyncio.timeout(30):
        await restyle(emulator.url, str(tmp_path))
    assert emulator.ledger()["billed"] == 1


async def test_the_times_of_a_side_car_are_in_order(emulator: Emulator, tmp_path: Path) -> None:
    restyled = await restyle(emulator.url, str(tmp_path))
    times = json.loads(Path(restyled.metadata_uri).read_text())["times"]
    in_order = [
        datetime.fromisoformat(times[name]) for name in ("claimed", "submitted", "completed", "stored")
    ]
    assert in_order == sorted(in_order)


async def test_the_side_car_lists_all_attempts(emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults([*ends("failed", code=5000, message="out of memory"), *submit("drop_before", skip=1)])
    restyled = await restyle(emulator.url, str(tmp_path))
    attempts = json.loads(Path(restyled.metadata_uri).read_text())["attempts"]
    assert "out of memory" in attempts[0]["error"]
    assert "POST" in attempts[1]["error"]
    assert attempts[2] == {
        "claimed_at": attempts[2]["claimed_at"],
        "flow_run_id": attempts[2]["flow_run_id"],
        "flow_run_name": None,
        "prediction_id": restyled.prediction_id,
        "error": None,
    }


async def test_a_prediction_that_is_not_ready_in_time_is_named_and_resumed_later(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults(ends("slow", seconds=2))
    impatient = QUICK.model_copy(update={"poll_timeout_seconds": 0.5})
    with pytest.raises(PredictionTimeoutError) as caught:
        await restyle(emulator.url, str(tmp_path), settings=impatient)
    restyled = await restyle(emulator.url, str(tmp_path))
    assert restyled.prediction_id == caught.value.prediction_id
    assert emulator.ledger()["billed"] == 1


@pytest.mark.parametrize(
    ("policy", "folder"), [("keep", "images"), ("quarantine", "quarantine"), ("drop", None)]
)
async def test_flagged_outputs_are_kept_set_apart_or_dropped(
    policy: Any, folder: str | None, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults(ends("nsfw"))
    restyled = await restyle(emulator.url, str(tmp_path), nsfw=policy)
    (output,) = restyled.outputs
    assert output.nsfw
    if folder is None:
        assert output.uri is None
        assert not list(tmp_path.glob("**/*.jpeg"))
    else:
        assert output.uri is not None
        assert Path(output.uri).relative_to(tmp_path).parts[0] == folder
    assert json.loads(Path(restyled.metadata_uri).read_text())["outputs"][0]["nsfw"] is True
