"""The side-car of a finished job, made of what the ledger and the API say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.job import Job, RunInfo, Source
from prefect_wavespeed.ledger.records import OpenJob
from prefect_wavespeed.ledger.sidecar import JobHistory, make_side_car

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _at(seconds: float | None) -> datetime | None:
    return None if seconds is None else _NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("claimed", "submitted", "completed", "stored"),
    [(0, 1, 3, 4), (1, 0.4, 3, 4), (5, 4, 3, 2), (None, None, 3, 2), (1, None, 0, 2)],
    ids=["in order", "whole seconds", "all early", "no claim", "no record"],
)
def test_times_are_in_order_whatever_the_clocks_said(
    claimed: float | None, submitted: float | None, completed: float, stored: float
) -> None:
    job = Job(source=Source(uri="u", identity="u", name="a.jpg", location="u"), params=ReduxParams())
    claims, records = ({} if time is None else {1: time} for time in (_at(claimed), _at(submitted)))
    open_job = OpenJob(claims, records)
    side_car = make_side_car(
        job,
        1,
        Prediction(id="p", status="completed"),
        [],
        [],
        JobHistory(open_job, job.request("u"), None, []),
        RunInfo(package_version="test"),
        completed=_NOON + timedelta(seconds=completed),
        stored=_NOON + timedelta(seconds=stored),
    )
    times = side_car.times
    in_order = [time for time in (times.claimed, times.submitted, times.completed, times.stored) if time]
    assert in_order == sorted(in_order)
    assert times.claimed == _at(claimed)
