"""What `restyle show` advises to do next."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.inspect.advice import after_failure, next_step, reason
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.job import Job, NsfwRules, Source
from prefect_wavespeed.ledger.records import Claim, Failure, OpenJob
from tests.support.records import STORED, dead_letter, key_of, record, side_car

URL = "https://example.com/a.jpg"
SETTLE = "`restyle settle --out 's3://my bucket'`"


def open_job(*, submitted: bool, age: timedelta = timedelta()) -> JobView:
    at = datetime.now(UTC) - age
    source = Source(uri=URL, identity=URL, name="a.jpg", location=URL)
    claim = Claim(
        nonce="n",
        flow_run_id=None,
        flow_run_name=None,
        claimed_at=at,
        lease_seconds=150,
        base_url="https://api.wavespeed.ai",
        request=ReduxRequest(image=URL, seed=1),
        job=Job(source=source),
        nsfw=NsfwRules(),
    )
    records = {1: record("p")} if submitted else {}
    seen = OpenJob(claimed={1: at}, recorded={1: at} if submitted else {})
    return JobView("open", key_of("p"), at, "open/x", open_job=seen, claims={1: claim}, records=records)


def prediction(status: str) -> Prediction:
    return Prediction.model_validate({"id": "p", "model": "m", "status": status})


def test_every_way_to_fail_has_its_own_advice() -> None:
    by_code = {
        (code, source): after_failure(Failure(type="PredictionFailed", message="", code=code), "out", source)
        for code, source in ((1200, URL), (1402, URL), (1402, "file:///a.jpg"), (5000, URL))
    }
    by_type = {
        kind: after_failure(Failure(type=kind, message=""), "out", URL)
        for kind in ("SourceError", "PredictionLost", "AttemptsUsedUp", "NeverSubmitted")
    }
    assert len({*by_code.values(), *by_type.values()}) == 8
    assert "--retry-failed" in after_failure(Failure(type="Unheard", message=""), "out", URL)


@pytest.mark.parametrize(
    ("submitted", "age", "expected"),
    [
        (False, timedelta(seconds=10), "wait: a runner has just claimed it"),
        (False, timedelta(seconds=200), f"its runner is gone: run it again, or {SETTLE}"),
        (True, timedelta(seconds=200), f"wait for its runner .* run it again, or {SETTLE}"),
    ],
)
def test_an_open_job_is_left_to_its_runner_while_that_may_live(
    submitted: bool, age: timedelta, expected: str
) -> None:
    step = next_step(open_job(submitted=submitted, age=age), "s3://my bucket")
    assert re.match(expected, step)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("processing", "wait for its runner"),
        ("completed", "its pictures are ready"),
        ("failed", "run it again, which tries up to three times"),
    ],
)
def test_what_wavespeed_reports_decides_about_a_submitted_job(status: str, expected: str) -> None:
    assert next_step(open_job(submitted=True), "out", prediction(status)).startswith(expected)


def test_closed_jobs() -> None:
    metadata, letter = side_car("p"), dead_letter("p", code=1200, message="refused")
    done = JobView("done", metadata.job_key, STORED, "images/x/metadata.json", metadata=metadata)
    failed = JobView("failed", letter.job_key, STORED, "failed/x.json", letter=letter)
    other = JobView("failed", letter.job_key, STORED, "failed/x.json", unreadable=True)
    assert next_step(done, "out").startswith("nothing")
    assert "another picture" in next_step(failed, "out")
    assert next_step(other, "out") == "upgrade prefect-wavespeed"
    assert [reason(job) for job in (done, failed)] == ["", "refused"]


@pytest.mark.parametrize(
    ("submitted", "status", "expected"),
    [
        (False, None, "run it again, which submits it"),
        (True, "failed", "run it again, which tries up to three times in all"),
        (True, "completed", f"{SETTLE} once what the reason names is fixed; if it cannot be, report"),
        (True, None, f"{SETTLE} once what the reason names is fixed; if it cannot be, report"),
    ],
)
def test_after_a_settle_that_changed_nothing_another_one_is_not_all_that_is_advised(
    submitted: bool, status: str | None, expected: str
) -> None:
    """Settling notes what it met beside the attempt."""
    job = replace(open_job(submitted=submitted, age=timedelta(hours=1)), errors={1: "the answer ended early"})
    found = prediction(status) if status else None
    assert next_step(job, "s3://my bucket", found).startswith(expected)
    assert reason(job).startswith("the answer ended early: ")
    if submitted:
        without_claim = replace(job, claims={})
        assert next_step(without_claim, "out").startswith("run it again: only that says")
