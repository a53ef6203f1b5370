"""What real runs recorded, compared with the emulator's billing; and `restyle costs`.

The rules of the comparison are tested in test_cost_report.py, the tables in test_views.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.billing import Billing, BillingsPage
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.errors import PredictionFailedError, StoreError
from prefect_wavespeed.inspect.cost_report import CostReport
from prefect_wavespeed.inspect.costs import costs
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support import settler
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.in_process import restyle as run_command
from tests.support.prefect_server import PrefectServer
from tests.support.s3_servers import S3Server

KEY = "key-that-nobody-may-see"


@dataclass
class World:
    """The emulator and an output."""

    emulator: Emulator
    store: Store

    async def restyle(self, *variants: int, **terms: Any) -> list[str]:
        """Restyle a photograph, and return the predictions' ids."""
        restyled = [await restyle(self.emulator.url, self.store, variant=one, **terms) for one in variants]
        return [one.prediction_id for one in restyled]

    async def submit(self, variant: int) -> str:
        """Submit a job, and leave it open."""
        async with self.client() as client:
            steps = StepSet(client, self.store, QUICK)
            job = await make_job(str(PHOTO), SMALL, variant, self.store)
            return (await steps.submit(job, run=settler.RUN)).prediction_id

    async def submit_elsewhere(self) -> str:
        """Submit something on the same account that does not belong to the output."""
        async with self.client() as client:
            url = await client.upload("a.jpg", PHOTO.read_bytes(), "image/jpeg")
            return (await client.submit(ReduxRequest(image=url, size="256*256", seed=1))).id

    def client(self) -> WaveSpeedClient:
        return WaveSpeedClient("test-key", self.emulator.url, submit_timeout=1.5)

    async def costs(self) -> CostReport:
        async with self.client() as client:
            return await costs(client, self.store)


@pytest.fixture
def world(emulator: Emulator, tmp_path: Path) -> World:
    return World(emulator, directory_store(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["directory", "moto"])
async def test_side_cars_and_billing_of_real_runs_agree(
    kind: str, emulator: Emulator, moto: S3Server, tmp_path: Path
) -> None:
    on_s3 = s3_store(moto.bucket, tmp_path.name, moto.session(), endpoint_url=moto.endpoint)
    world = World(emulator, on_s3 if kind == "moto" else directory_store(tmp_path / "out"))
    began = datetime.now(UTC)
    await world.restyle(0, 1, run_id="one")
    await world.restyle(2, run_id="other", params=SMALL.model_copy(update={"num_images": 2}))
    report = await world.costs()
    assert report.total.model_dump() == {"jobs": 3, "pictures": 4, "usd": 0.1}
    assert set(report.days) <= {began.date().isoformat(), datetime.now(UTC).date().isoformat()}  # or midnight
    assert [(run.flow_run_id, run.jobs, run.pictures, run.usd) for run in report.runs] == [
        ("one", 2, 2, 0.05),
        ("other", 1, 2, 0.05),
    ]
    assert (report.agreed, report.billed_usd) == (3, 0.1)
    assert (report.differ.predictions, report.unbilled.predictions, report.refunded.predictions) == (0, 0, 0)
    assert report.without_side_car == {}


async def test_a_failed_attempt_before_the_picture_was_refunded(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 5000}])
    await world.restyle(0)
    first, second = world.emulator.ledger()["predictions"]
    report = await world.costs()
    assert (report.agreed, report.total.usd) == (1, 0.025)
    (one,) = report.refunded.items
    assert (one.prediction_id, one.belongs_to) == (first["id"], "earlier attempt")
    assert second["billed"]


async def test_what_is_billed_without_a_side_car_is_reported_with_what_it_belongs_to(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "no_outputs"}])
    with pytest.raises(PredictionFailedError) as failed:  # billed: for the API it is completed
        await world.restyle(0)
    await world.restyle(1)
    opened = await world.submit(2)
    foreign = await world.submit_elsewhere()
    report = await world.costs()
    assert (report.agreed, report.billed_usd) == (1, 0.075)
    assert {
        owner: [(one.prediction_id, one.billed_usd) for one in of.items]
        for owner, of in report.without_side_car.items()
    } == {
        "failed": [(failed.value.prediction_id, 0.025)],
        "open": [(opened, 0.025)],
        "not of this output": [(foreign, 0.025)],
    }


async def test_an_unreachable_store_is_an_error(emulator: Emulator, moto: S3Server) -> None:
    store = s3_store(moto.bucket, "away", moto.session(), endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match="refused"):
        await World(emulator, store).costs()


@pytest.mark.parametrize(
    ("record", "usd"),
    [
        ({"price": 0.02}, 0.02),
        ({"price": "0.02"}, 0.02),
        ({"billing_type": "refund", "price": 0.02}, -0.02),
        ({"billing_type": "Refund", "price": -0.02}, -0.02),
        ({"price": None}, None),
        ({"price": "expensive"}, None),
        ({"price": "nan"}, None),
        ({}, None),
    ],
)
def test_a_billing_record_is_read_leniently(record: dict[str, Any], usd: float | None) -> None:
    assert Billing.model_validate(record).usd() == usd


@pytest.mark.parametrize(
    ("price", "quoted", "usd"),
    [
        (0.025, 0.025, 0.025),
        (25_000, 0.025, 0.025),
        (25_000, None, 0.025),
        ("25000", None, 0.025),
        (12.5, None, 12.5),
        (999, None, 999),
        (1000, None, 0.001),
        (1000.5, None, 1000.5),
        (30, 25, 30),
        (500, 0.0005, 0.0005),
        (2_000, 1_800, 2_000),
        (0, 0.025, 0),
        (25_000, 0.0, 0.025),
    ],
)
def test_the_unit_of_a_billing_record_is_told_by_the_quote(
    price: Any, quoted: float | None, usd: float
) -> None:
    assert Billing(price=price).usd(quoted) == pytest.approx(usd)
    assert Billing(price=price, billing_type="refund").usd(quoted) == pytest.approx(-usd)


@pytest.mark.parametrize(
    "moment",
    [
        "1767268800000",
        1_767_268_800_000,
        1_767_268_800,
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:00:00.000000000+00:00",
        "2026-01-01T20:00:00+08:00",
    ],
)
def test_the_time_of_a_billing_record_has_several_forms(moment: Any) -> None:
    assert Billing.model_validate({"created_at": moment}).created_at == datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("page", "records", "is_last"),
    [
        ({"has_more": True}, 3, False),
        ({"has_more": False}, 100, True),
        ({"has_more": True}, 0, True),
        ({"total": 250}, 100, False),
        ({"total": 200}, 100, True),
        ({"total": "many"}, 100, False),
        ({"has_more": None, "total": None}, 99, True),
        ({}, 100, False),
    ],
)
def test_the_last_page_of_a_billing_is_known(page: dict[str, Any], records: int, is_last: bool) -> None:
    read = BillingsPage.model_validate({**page, "items": [{"uuid": str(n)} for n in range(records)]})
    assert read.is_last(100 + records, 100) is is_last


def test_invalid_fields_of_a_billing_record_are_ignored() -> None:
    odd = Billing.model_validate(
        {"uuid": 7, "created_at": "soon", "prediction": None, "billing_type": None, "order": {}}
    )
    assert (odd.uuid, odd.created_at, odd.prediction.uuid) == ("7", None, "")
    assert Billing.model_validate({"uuid": [], "billing_type": 3.5, "prediction": {"uuid": {}}}).usd() is None
    numbers = Billing.model_validate(
        {"created_at": "2026-01-02T03:04:05.123456789", "prediction": {"uuid": 9, "status": None}}
    )
    assert numbers.created_at == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert numbers.prediction.uuid == "9"


# --- the command ---


def run(world: World, prefect: PrefectServer, *options: str) -> dict[str, Any]:
    """Run ``restyle costs --json``, and return the object."""
    env = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": world.emulator.url}
    command = ("costs", "--out", world.store.uri, *options, "--json")
    ended = run_command(*command, prefect=prefect, env=env)
    assert (ended.status, ended.stderr, ended.stdout.count("\n")) == (0, "", 1)
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


def test_json_is_one_object_on_stdout(world: World, prefect: PrefectServer) -> None:
    asyncio.run(world.restyle(0))
    report = run(world, prefect, "--since", "7d")
    assert (report["total"]["jobs"], report["agreed"]) == (1, 1)
    since = datetime.fromisoformat(report["since"])
    assert (since.hour, since.minute) == (0, 0)
    assert timedelta(days=7) <= datetime.now(UTC) - since <= timedelta(days=8, hours=1)


@pytest.mark.e2e
def test_the_command_prints_days_runs_billing_and_differences(world: World, prefect: PrefectServer) -> None:
    asyncio.run(world.restyle(0, 1, run_id="the-run"))
    opened = asyncio.run(world.submit(2))
    env = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": world.emulator.url}
    ended = prefect.restyle("costs", "--out", world.store.uri, env=env)
    assert (ended.status, ended.stderr) == (0, "")
    lines = [re.split(r"\s{2,}", line.strip()) for line in ended.stdout.splitlines()]
    assert ["total", "2", "2", "0.0500"] in lines
    assert ["the-run", "2", "2", "0.0500"] in lines
    assert ["billed for this output", "0.0750"] in lines
    assert [opened, "0.0250", "the job is still open"] in lines


@pytest.mark.parametrize(
    ("options", "out", "expected"),
    [
        (("--since", "1w"), "", "--since 1w"),
        ((), "nowhere/at/all", "no such directory"),
        (("--wavespeed", "nobody"), "", "wavespeed/nobody"),
    ],
)
def test_a_mistake_is_one_line(
    options: tuple[str, ...], out: str, expected: str, prefect: PrefectServer, tmp_path: Path
) -> None:
    command = ("costs", "--out", out or str(tmp_path), *options)
    ended = run_command(*command, prefect=prefect, env={"WAVESPEED_API_KEY": KEY})
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert expected in ended.stderr
    assert KEY not in ended.stderr
