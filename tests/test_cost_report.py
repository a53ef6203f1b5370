"""Side-cars compared with the billing, without a server: agreement, differences, refunds, periods, pages."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from prefect_wavespeed.api.billing import BilledPrediction, Billing, BillingsPage
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.errors import UnavailableError
from prefect_wavespeed.inspect import cost_report
from prefect_wavespeed.inspect.cost_report import CostReport
from prefect_wavespeed.inspect.costs import costs
from prefect_wavespeed.ledger.records import Attempt
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.storage.open_store import directory_store
from prefect_wavespeed.storage.store import Store
from tests.support.records import STORED, dead_letter, put, record, side_car


def billed(prediction_id: str, usd: float, at: datetime = STORED, **more: Any) -> Billing:
    return Billing(
        uuid=f"bill-{prediction_id}",
        price=usd,
        created_at=at,
        prediction=BilledPrediction(uuid=prediction_id),
        **more,
    )


class Account:
    """The billing of an account, as the client returns it."""

    def __init__(self, *records: Billing, failures: int = 0) -> None:
        self.records = list(records)
        self.failures = failures
        self.calls: list[tuple[int, datetime]] = []

    async def billings(self, *, page: int, page_size: int, start_time: datetime) -> BillingsPage:
        self.calls.append((page, start_time))
        if self.failures:
            self.failures -= 1
            raise UnavailableError("busy", status=503)
        first = (page - 1) * page_size
        return BillingsPage(page=page, items=self.records[first : first + page_size])


async def audit(store: Store, account: Account, since: datetime | None = None) -> CostReport:
    with instant_retries():
        return await costs(cast("WaveSpeedClient", account), store, since)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


def summed(report: CostReport) -> dict[str, tuple[int, float]]:
    """Number and sum of the differences of each kind."""
    kinds = {"differ": report.differ, "unbilled": report.unbilled, "refunded": report.refunded}
    kinds |= {f"without: {owner}": of for owner, of in report.without_side_car.items()}
    return {kind: (of.predictions, of.usd) for kind, of in kinds.items() if of.predictions}


@pytest.mark.parametrize(
    ("recorded", "records", "expected"),
    [
        (0.025, [("p", 0.025)], {}),
        (0.025, [("p", 0.0250000001)], {}),
        (0.025, [("p", 0.03)], {"differ": (1, 0.005)}),
        (0.025, [("p", 0.02)], {"differ": (1, -0.005)}),
        (0.025, [], {"unbilled": (1, 0.025)}),
        (0.025, [("p", 0.0)], {"refunded": (1, 0.025)}),
        (None, [("p", 0.025)], {"differ": (1, 0.025)}),
        (None, [], {"unbilled": (1, 0.0)}),
        (0.025, [("p", 0.025), ("stranger", 0.5)], {"without: not of this output": (1, 0.5)}),
    ],
)
async def test_each_way_in_which_a_side_car_and_the_billing_differ(
    store: Store, recorded: float | None, records: list[tuple[str, float]], expected: dict[str, Any]
) -> None:
    await put(store, side_car("p", recorded))
    report = await audit(store, Account(*(billed(*record) for record in records)))
    assert summed(report) == expected
    assert report.agreed == (not expected or "without: not of this output" in expected)
    assert report.billed_usd == pytest.approx(sum(usd for one, usd in records if one == "p"))
    assert report.unpriced == (recorded is None)


async def test_missing_pictures_are_paid_for_and_not_delivered_by_their_share_of_the_price(
    store: Store,
) -> None:
    await put(store, side_car("whole", 0.05, pictures=2), side_car("half", 0.1, pictures=2, asked=4))
    await put(store, side_car("unpriced", None, pictures=1, asked=2))
    report = await audit(store, Account(billed("whole", 0.05), billed("half", 0.1)))
    undelivered = report.undelivered
    assert (undelivered.predictions, undelivered.pictures, undelivered.usd) == (2, 3, 0.05)
    shares = {one.prediction_id: one.recorded_usd for one in undelivered.items}
    assert shares == {"half": 0.05, "unpriced": None}
    assert report.agreed == 2, "they were billed as recorded all the same"


async def test_a_billed_prediction_without_a_side_car_is_of_the_job_that_it_belongs_to(store: Store) -> None:
    await put(store, side_car("done", earlier=("retried",)), dead_letter("dead"), record("open"))
    names = ("done", "retried", "dead", "open", "foreign")
    report = await audit(store, Account(*(billed(name, 0.025) for name in names)))
    ids = {owner: [one.prediction_id for one in of.items] for owner, of in report.without_side_car.items()}
    assert ids == {
        "earlier attempt": ["retried"],
        "failed": ["dead"],
        "open": ["open"],
        "not of this output": ["foreign"],
    }
    assert report.billed_usd == 0.1


async def test_a_refund_with_a_record_of_its_own_is_subtracted(store: Store) -> None:
    await put(store, side_car("kept"), side_car("refunded"))
    refund = billed("refunded", 0.025, billing_type="refund")
    recharge = Billing(uuid="top-up", billing_type="recharge", price=100)
    report = await audit(store, Account(billed("kept", 0.025), billed("refunded", 0.025), refund, recharge))
    assert summed(report) == {"refunded": (1, 0.025)}
    assert (report.agreed, report.billed_usd) == (1, 0.025)


async def test_a_failed_prediction_that_was_refunded_says_to_what_it_belongs(store: Store) -> None:
    await put(store, dead_letter("dead"))
    report = await audit(store, Account(billed("dead", 0.0)))
    (one,) = report.refunded.items
    assert (one.prediction_id, one.belongs_to, one.billed_usd) == ("dead", "failed", 0)


async def test_sums_are_by_utc_day_and_by_run_the_most_expensive_first(store: Store) -> None:
    east = datetime.fromisoformat("2026-01-02T01:30:00+02:00")
    await put(
        store,
        side_car("a", 0.025, stored=east, run_id="cheap"),
        side_car("b", 0.05, stored=datetime(2026, 1, 2, 23, 30, tzinfo=UTC), run_id="expensive", pictures=2),
        side_car("c", 0.05, stored=datetime(2026, 1, 2, tzinfo=UTC), run_id="expensive", pictures=2),
        side_car("d", None, stored=east, run_id=None),
    )
    report = await audit(store, Account())
    assert {day: (of.jobs, of.pictures, of.usd) for day, of in report.days.items()} == {
        "2026-01-01": (2, 2, 0.025),
        "2026-01-02": (2, 4, 0.1),
    }
    assert report.total.model_dump() == {"jobs": 4, "pictures": 6, "usd": 0.125}
    assert [(run.flow_run_id, run.jobs, run.usd) for run in report.runs] == [
        ("expensive", 2, 0.1),
        ("cheap", 1, 0.025),
        (None, 1, 0),
    ]


async def test_a_job_is_counted_with_the_run_that_paid_for_it_not_with_the_one_that_stored_it(
    store: Store,
) -> None:
    settled = side_car("a", 0.025, run_id="settle")
    by_night = Attempt(
        claimed_at=settled.times.stored, flow_run_id="night", flow_run_name="quick-owl", prediction_id="a"
    )
    await put(store, settled.model_copy(update={"attempts": [by_night]}))
    report = await audit(store, Account())
    assert [(run.flow_run_id, run.flow_run_name, run.usd) for run in report.runs] == [
        ("night", "quick-owl", 0.025)
    ]


async def test_runs_and_differences_beyond_the_limit_are_only_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_report, "MAX_ITEMS", 2)
    monkeypatch.setattr("prefect_wavespeed.inspect.costs.MAX_ITEMS", 2)
    await put(store, *(side_car(name, run_id=name) for name in "abc"))
    report = await audit(store, Account())
    assert (len(report.runs), report.runs_left_out) == (2, 1)
    assert (len(report.unbilled.items), report.unbilled.predictions) == (2, 3)


async def test_since_goes_by_when_a_picture_was_stored_though_it_was_billed_the_day_before(
    store: Store,
) -> None:
    yesterday = STORED - timedelta(days=1)
    await put(store, side_car("old", stored=yesterday), side_car("new"))
    records = [billed("old", 0.025, yesterday), billed("new", 0.025, STORED - timedelta(minutes=1))]
    report = await audit(store, Account(*records), since=STORED)
    assert (report.total.jobs, report.agreed, report.without_side_car) == (1, 1, {})
    assert "old" not in report.model_dump_json()


async def test_predictions_of_others_count_from_since_on_and_until_the_command_began(store: Store) -> None:
    await put(store, side_car("ours"))
    others = [
        billed("before", 1.0, STORED - timedelta(hours=1)),
        billed("within", 1.0, STORED),
        billed("later", 1.0, datetime.now(UTC) + timedelta(days=1)),
    ]
    report = await audit(store, Account(*others))
    assert [one.prediction_id for one in report.without_side_car["not of this output"].items] == ["within"]


async def test_the_billing_is_read_from_an_hour_before_the_first_prediction_to_the_last_page(
    store: Store,
) -> None:
    await put(store, side_car("ours"))
    account = Account(*(billed(f"other-{number}", 0.01) for number in range(210)))
    report = await audit(store, account)
    assert [page for page, _ in account.calls] == [1, 2, 3]
    assert {start for _, start in account.calls} == {STORED - timedelta(hours=1)}
    others = report.without_side_car["not of this output"]
    assert (others.predictions, others.usd) == (210, 2.1)


async def test_a_record_that_moved_to_the_next_page_counts_once(store: Store) -> None:
    await put(store, side_car("ours"))
    records = [billed(f"other-{number}", 0.01) for number in range(150)]
    account = Account(*records[:100], records[99], *records[100:])  # a new record came before page 2
    report = await audit(store, account)
    assert report.without_side_car["not of this output"].predictions == 150


async def test_records_are_in_millionths_where_the_quotes_say_so_and_refunds_are_subtracted(
    store: Store,
) -> None:
    await put(store, side_car("p", 0.025, earlier=("first",)), record("opened"), dead_letter("failed"))
    refund = {"billing_type": "refund", "uuid": "refund-1"}
    records = [billed(name, 25_000) for name in ("p", "first", "opened", "failed", "foreign", "stranger")]
    records += [billed(name, 25_000).model_copy(update=refund) for name in ("first", "stranger")]
    report = await audit(store, Account(*records))
    assert summed(report) == {
        "refunded": (1, 0.0),
        "without: open": (1, 0.025),
        "without: failed": (1, 0.025),
        "without: not of this output": (1, 0.025),
    }
    assert (report.agreed, report.billed_usd) == (1, 0.075)


async def test_a_busy_billing_is_asked_again(store: Store) -> None:
    await put(store, side_car("p"))
    assert (await audit(store, Account(billed("p", 0.025), failures=2))).agreed == 1


async def test_an_empty_output_asks_nothing(store: Store) -> None:
    account = Account()
    assert (await audit(store, account)).total.jobs == 0
    assert account.calls == []


async def test_a_side_car_of_another_version_is_counted_and_an_old_one_is_not_even_read(
    store: Store,
) -> None:
    await store.put("images/coffee-0123456789abcdef/metadata.json", b'{"schema": 2}', "application/json")
    assert (await audit(store, Account())).unreadable == 1
    two_days_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    for path in Path(store.uri).rglob("metadata.json"):
        os.utime(path, (two_days_ago, two_days_ago))
    assert (await audit(store, Account(), since=datetime.now(UTC) - timedelta(days=1))).unreadable == 0
