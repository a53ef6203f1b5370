"""A prediction that is paid for is given up only where the API itself says long enough that it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.job import Job, Source
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.steps.await_prediction import DOUBTS, TEXT_FACTOR, Doubts
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.clients import CREATED, client_of
from tests.support.raw_server import Answer, RawServer, answer, http

SETTINGS = Settings(
    lease_seconds=4,
    submit_timeout_seconds=1,
    reconcile_seconds=0.05,
    poll_timeout_seconds=20,
    min_poll_seconds=0.01,
)
COMPLETED = answer({**CREATED, "status": "completed", "outputs": ["https://example.com/1.jpeg"]})
JOB = Job(
    source=Source(uri="u", identity="u", name="cat.jpg", location="u"),
    params=ReduxParams(),
)


NOTHING = answer({"items": []})


async def poll(tmp_path: Path, *answers: Answer, history: bytes = NOTHING) -> Polled:
    async with (
        RawServer(*answers, history=history) as server,
        client_of(server, submit_timeout=1) as client,
    ):
        steps = StepSet(client, directory_store(tmp_path), SETTINGS)
        return await steps.poll(JOB, Submitted(job_key=JOB.key, prediction_id="p1", attempt=1))


async def test_a_404_of_the_api_is_believed_soon_and_a_text_only_after_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.steps.poll_schedule.MAX_INTERVAL", 0.02)
    unknown = {
        status: answer(None, status=status, code=status, message="prediction not found")
        for status in (404, 500)
    }
    with pytest.raises(PredictionFailedError, match="no longer knows"):
        await poll(tmp_path, unknown[404])
    assert (await poll(tmp_path / "other", *[unknown[500]] * (DOUBTS + 2), COMPLETED)).completed


@pytest.mark.parametrize(
    "history",
    [answer({"items": [CREATED]}), http(503), answer({"items": "none"})],
    ids=["lists it", "is down", "says nothing"],
)
async def test_what_the_history_lists_or_may_list_is_not_given_up_for_a_404(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: bytes
) -> None:
    monkeypatch.setattr("prefect_wavespeed.steps.poll_schedule.MAX_INTERVAL", 0.02)
    unknown = [answer(None, status=404, code=404, message="prediction not found")] * (3 * DOUBTS)
    with instant_retries():
        assert (await poll(tmp_path, *unknown, COMPLETED, history=history)).completed


async def test_what_the_api_says_before_and_after_an_outage_is_not_taken_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.steps.poll_schedule.MAX_INTERVAL", 0.02)
    unknown = [answer(None, status=404, code=404, message="prediction not found")] * DOUBTS
    page = http(404, "<html>404 page not found</html>")  # a gateway's
    assert (await poll(tmp_path, *unknown, page, *unknown, COMPLETED)).completed


async def test_polling_goes_on_where_an_answer_asks_to_wait_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("await_prediction", "poll_slowdown"):
        monkeypatch.setattr(f"prefect_wavespeed.steps.{module}.LONGEST_WAIT", 0.05)
    for status in (503, 429):
        assert (await poll(tmp_path, http(status, Retry_After="86400"), COMPLETED)).completed


def test_doubts_are_believed_by_their_number_and_their_time() -> None:
    time = 0.0
    doubts = Doubts(lambda: time)
    for _ in range(DOUBTS + 1):
        assert not doubts.are_believed(20)
    time = 20
    assert doubts.are_believed(20)
    assert not doubts.are_believed(TEXT_FACTOR * 20)
    time = 300
    assert doubts.are_believed(TEXT_FACTOR * 20)
    doubts.clear()
    assert not doubts.are_believed(20)
