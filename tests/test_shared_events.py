"""Events of a large batch while Prefect's server is away: bounded, and told once when some are dropped."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator

import pytest
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.tasks.events import emit_submitted, sharing_events
from tests.support.jobs import job_of, make_row


@pytest.fixture
def _away() -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"  # nobody listens there
        EventsWorker.set_client_override(PrefectEventsClient, api_url=url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield
        EventsWorker.set_client_override(None)


async def told_of(events: Iterable[Submitted], caplog: pytest.LogCaptureFixture) -> str:
    """The only line in the log about events of jobs that share theirs."""
    job = job_of(make_row(1))
    async with sharing_events("s3://b/out", RunInfo(package_version="0", flow_run_id="run")):
        for submitted in events:
            emit_submitted(job, "s3://b/out", submitted)
    (told,) = (record.getMessage() for record in caplog.records if record.name == "prefect.restyle")
    return told


def of_prediction(prediction_id: str) -> Submitted:
    return Submitted(job_key="a" * 64, prediction_id=prediction_id, attempt=1, fresh=True)


@pytest.mark.usefixtures("_away")
async def test_events_that_wait_for_a_server_that_is_away_are_bounded_and_the_rest_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = await told_of((of_prediction(str(number)) for number in range(30_000)), caplog)
    assert EventsWorker.instance()._queue.qsize() <= 200, "of 300"
    assert re.fullmatch(r"\d+ events dropped, as Prefect's server was away or slow: .*", told)
    assert int(told.split()[0]) >= 99


@pytest.mark.usefixtures("_away")
async def test_events_that_prefect_does_not_take_are_told_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = await told_of([of_prediction("x" * 3_000_000)], caplog)
    assert told.startswith("1 event dropped, as Prefect did not take them (EventTooLarge at last): ")
