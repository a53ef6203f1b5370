"""Caps and days of a backfill, without a server: what each run may spend, and which days are whole."""

from __future__ import annotations

from datetime import UTC, date, datetime
from math import inf
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from prefect_wavespeed.api.models import FormParams
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.quoting import BatchQuote
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.deployments.backfill import Caps, DayRun
from prefect_wavespeed.deployments.begun_runs import set_aside, spent_by_run
from prefect_wavespeed.inspect.days import days_of

DAY = date(2026, 11, 1)
SIZE = BatchOptions(params=FormParams(size="256*256"))


def _day(usd: float, billed: int, open_: int = 0) -> DayRun:
    quote = BatchQuote(
        rows=9, invalid=0, unusable=0, left_out={}, jobs=9, done=9 - billed - open_, open=open_, failed=0,
        billed=billed, usd=usd, balance_usd=100.0,
    )  # fmt: skip
    return DayRun(DAY, "m", "new", quote=quote)


def _shares(caps: Caps, plan: list[DayRun]) -> list[float | None]:
    left, shares = caps.total, []
    for number in range(len(plan)):
        shares.append(share := caps.share(plan[number:], left))
        left = None if left is None or share is None else left - share
    return shares


def test_a_share_is_never_below_the_quote_nor_above_the_deployments_cap_and_open_jobs_get_one() -> None:
    assert _shares(Caps(0.0333337, None), [_day(0.0333337, 1)]) == [0.0333337]
    assert _shares(Caps(50.0, 0.1), [_day(0.05, 1), _day(0.05, 1)]) == [0.1, 0.1]
    assert _shares(Caps(0.4, None), [_day(0.1, 2), _day(0.0, 0, open_=1)]) == pytest.approx([0.3, 0.1])
    assert _shares(Caps(None, None), [_day(0.1, 2)]) == [None]
    done, new = _shares(Caps(0.4, None), [_day(0.0, 0), _day(0.1, 2)])
    assert done is not None
    assert 0 < done < 1e-6
    assert new == pytest.approx(0.4)


def _run(cap: float | None, state: StateType) -> FlowRun:
    options: dict[str, Any] = {"params": {}} if cap is None else {"max_cost_usd": cap}
    return FlowRun(id=uuid4(), flow_id=uuid4(), parameters={"options": options}, state=State(type=state))


def test_runs_that_are_over_count_with_what_they_spent_and_others_with_their_caps() -> None:
    running, over, crashed = (
        _run(5.0, state) for state in (StateType.RUNNING, StateType.COMPLETED, StateType.CRASHED)
    )
    told = spent_by_run([_summary(flow_run_id=str(one.id), spent_usd=0.5) for one in (running, over)])
    assert set_aside([running, over, crashed], told) == 5 + 0.5 + 5
    open_ = spent_by_run([_summary(flow_run_id=str(over.id), counts={"stored": 1, "open": 1})])
    assert set_aside([over], open_) == 5
    assert set_aside([_run(None, StateType.COMPLETED)], {}) == 0
    held = set_aside([_run(None, StateType.SCHEDULED)], {})
    assert held == inf
    assert "has no cap of its own" in str(Caps(50.0, None).problem([_day(0.1, 2)], held))
    assert Caps(None, None).problem([_day(0.1, 2)], held) is None
    assert Caps(50.0, None).problem([], held) is None


def test_a_day_that_a_run_may_not_spend_enough_on_is_named() -> None:
    problem = str(Caps(50.0, 0.1).problem([_day(0.2, 2)], 0.0))
    assert "2026-11-01 would cost 0.2 USD, and the deployment lets a run spend 0.1 USD" in problem


def _summary(**fields: Any) -> Summary:
    at = datetime(2026, 11, 2, 6, tzinfo=UTC)
    values: dict[str, Any] = {
        "manifest": "s3://b/dt=2026-11-01/", "partition": DAY, "output": "s3://b/out", "started": at,
        "ended": at, "row_count": 2, "counts": {"stored": 2}, "jobs": 2, "images": 2, "spent_usd": 0.1,
        "seconds": 1.0, "options_digest": SIZE.digest,
    }  # fmt: skip
    return Summary(**{**values, **fields})


@pytest.mark.parametrize(
    ("fields", "zone", "whole"),
    [
        ({}, "UTC", [True]),
        ({}, "America/Los_Angeles", [False]),  # 22:00 or 23:00 of the same day
        ({"started": datetime(2026, 11, 1, 2, tzinfo=UTC)}, "UTC", [False]),
        ({"counts": {"stored": 1, "failed": 1}}, "UTC", [False]),
        ({"options_digest": BatchOptions().digest}, "UTC", []),
        (
            {"options_digest": BatchOptions(params=SIZE.params, max_cost_usd=3, carry="sku").digest},
            "UTC",
            [True],
        ),
    ],
)
def test_a_day_is_whole_by_a_run_with_the_same_parameters_that_began_after_its_end(
    fields: dict[str, Any], zone: str, whole: list[bool]
) -> None:
    assert [day.is_whole for day in days_of([_summary(**fields)], [zone], SIZE.digest)] == whole
    other = _summary(options_digest="other", counts={"failed": 2}, ended=datetime(2026, 11, 9, tzinfo=UTC))
    assert [day.is_whole for day in days_of([_summary(**fields), other], [zone], SIZE.digest)] == whole
