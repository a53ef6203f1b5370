"""What side-cars say against what was billed: agreement, differences, refunds, and what is nobody's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.billing import Billing
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.deployments.cli.shared.since import parse_since
from prefect_wavespeed.errors import ConfigurationError, PredictionFailedError, StoreError
from prefect_wavespeed.inspect.cost_report import CostReport
from prefect_wavespeed.inspect.costs import costs
from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support import settler
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended
from tests.support.raw_server import RawServer, http
from tests.support.s3_servers import S3Server
from tests.support.terminal import on_terminal, plain

KEY = "key-that-nobody-may-see"


@dataclass
class World:
    """The emulator and an output."""

    emulator: Emulator
    store: Store

    async def restyle(self, *variants: int, **terms: Any) -> list[str]:
        """Restyle a photograph, and return the predictions' ids."""
        done = [await restyle(self.emulator.url, self.store, variant=one, **terms) for one in variants]
        return [one.prediction_id for one in done]

    async def submit(self, variant: int) -> str:
        """Submit a job, and leave it open."""
        async with self.client() as client:
            steps = StepSet(client, self.store, QUICK)
            job = await make_job(str(PHOTO), SMALL, variant, self.store)
            return (await steps.submit(job, run=settler.RUN)).prediction_id

    async def foreign(self) -> str:
        """Somebody else on the same account submits something."""
        async with self.client() as client:
            url = await client.upload("a.jpg", PHOTO.read_bytes(), "image/jpeg")
            return (await client.submit(ReduxRequest(image=url, size="256*256", seed=1))).id

    def client(self) -> WaveSpeedClient:
        return WaveSpeedClient("test-key", self.emulator.url, submit_timeout=1.5)

    async def costs(self, since: datetime | None = None) -> CostReport:
        async with self.client() as client:
            return await costs(client, self.store, since)

    async def change_side_car(self, prediction_id: str, **changes: Any) -> None:
        """Let a side-car say something else."""
        for entry in await self.store.list("images/"):
            if entry.path.endswith("/metadata.json"):
                data = json.loads(await self.store.get(entry.path) or b"")
                if data["prediction"]["id"] == prediction_id:
                    for name, value in changes.items():
                        data[name].update(value)
                    text = Metadata.model_validate(data).model_dump_json()
                    await self.store.put(entry.path, text.encode(), "application/json")

    def age(self, seconds: float) -> None:
        """Let all that is in the directory have been written earlier."""
        then = datetime.now(UTC).timestamp() - seconds
        for path in Path(self.store.uri).rglob("*.json"):
            os.utime(path, (then, then))


@pytest.fixture
def world(emulator: Emulator, tmp_path: Path) -> World:
    return World(emulator, directory_store(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["directory", "moto"])
async def test_what_was_recorded_and_billed_agrees(
    kind: str, emulator: Emulator, moto: S3Server, tmp_path: Path
) -> None:
    on_s3 = s3_store(moto.bucket, tmp_path.name, moto.session(), endpoint_url=moto.endpoint)
    world = World(emulator, on_s3 if kind == "moto" else directory_store(tmp_path / "out"))
    began = datetime.now(UTC)
    await world.restyle(0, 1, run_id="one")
    await world.restyle(2, run_id="other", params=SMALL.model_copy(update={"num_images": 2}))
    told = await world.costs()
    assert told.total.model_dump() == {"jobs": 3, "pictures": 4, "usd": 0.1}
    assert sum(of.usd for of in told.days.values()) == pytest.approx(0.1)
    assert set(told.days) <= {began.date().isoformat(), datetime.now(UTC).date().isoformat()}  # or midnight
    assert [(run.flow_run_id, run.jobs, run.pictures, run.usd) for run in told.runs] == [
        ("one", 2, 2, 0.05),
        ("other", 1, 2, 0.05),
    ]
    assert (told.agreed, told.billed_usd) == (3, 0.1)
    assert (told.differ.predictions, told.unbilled.predictions, told.refunded.predictions) == (0, 0, 0)
    assert told.without_side_car == {}


async def test_a_price_that_changed_is_a_difference(world: World) -> None:
    await world.restyle(0)
    async with world.client() as client:
        steps = StepSet(client, world.store, QUICK)
        first, second = [await make_job(str(PHOTO), SMALL, variant, world.store) for variant in (1, 2)]
        await steps.submit(first, run=settler.RUN)  # it learns the price here
        world.emulator.price(0.03)
        submitted = await steps.submit(second, run=settler.RUN)
        assert (await steps.poll(second, submitted)).completed
        await steps.download(second, submitted, run=settler.RUN)
    told = await world.costs()
    assert told.agreed == 1
    assert (told.differ.predictions, told.differ.usd) == (1, 0.005)
    (one,) = told.differ.items
    assert (one.prediction_id, one.recorded_usd, one.billed_usd) == (submitted.prediction_id, 0.025, 0.03)
    assert told.without_side_car["open"].predictions == 1


async def test_a_prediction_that_failed_is_refunded(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200}])
    with pytest.raises(PredictionFailedError) as failed:
        await world.restyle(0)
    await world.restyle(1)
    told = await world.costs()
    assert (told.agreed, told.billed_usd) == (1, 0.025)
    (one,) = told.refunded.items
    assert (one.prediction_id, one.belongs_to, one.billed_usd) == (failed.value.prediction_id, "failed", 0)


async def test_an_attempt_that_failed_before_the_picture_is_told(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 5000}])
    await world.restyle(0)
    first, second = world.emulator.ledger()["predictions"]
    told = await world.costs()
    assert (told.agreed, told.total.usd) == (1, 0.025)
    (one,) = told.refunded.items
    assert (one.prediction_id, one.belongs_to) == (first["id"], "earlier attempt")
    assert second["billed"]


async def test_what_is_billed_without_a_side_car_says_whose_it_is(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "no_outputs"}])
    with pytest.raises(PredictionFailedError) as failed:  # billed: the API says that it is completed
        await world.restyle(0)
    await world.restyle(1)
    opened = await world.submit(2)
    foreign = await world.foreign()
    told = await world.costs()
    assert told.agreed == 1
    assert {
        whose: [(one.prediction_id, one.billed_usd) for one in of.items]
        for whose, of in told.without_side_car.items()
    } == {
        "failed": [(failed.value.prediction_id, 0.025)],
        "open": [(opened, 0.025)],
        "not of this output": [(foreign, 0.025)],
    }
    assert told.billed_usd == 0.075


async def test_what_is_recorded_and_not_billed_is_told(world: World) -> None:
    (lost,) = await world.restyle(0)
    world.emulator.reset()  # the account knows nothing of it, nor of what was uploaded
    await world.store.delete([entry.path for entry in await world.store.list("uploads/")])
    await world.restyle(1)
    told = await world.costs()
    assert told.agreed == 1
    assert (told.unbilled.usd, [one.prediction_id for one in told.unbilled.items]) == (0.025, [lost])


async def test_a_price_that_was_not_known_is_told(world: World) -> None:
    world.emulator.faults([{"on": call, "fault": "status", "times": None} for call in ("price", "pricing")])
    await world.restyle(0)
    told = await world.costs()
    assert (told.unpriced, told.total.usd, told.billed_usd) == (1, 0, 0.025)
    (one,) = told.differ.items
    assert (one.recorded_usd, one.billed_usd) == (None, 0.025)


async def test_since_leaves_out_what_is_older(world: World) -> None:
    await world.foreign()
    (old,) = await world.restyle(0)
    await asyncio.sleep(0.05)
    since = datetime.now(UTC)
    await world.restyle(1)
    foreign = await world.foreign()
    told = await world.costs(since)
    assert (told.total.jobs, told.agreed) == (1, 1)
    assert [one.prediction_id for one in told.without_side_car["not of this output"].items] == [foreign]
    assert old not in told.model_dump_json()


async def test_since_goes_by_the_day_of_storing_though_it_was_billed_the_day_before(world: World) -> None:
    (one,) = await world.restyle(0)
    await asyncio.sleep(0.05)
    since = datetime.now(UTC)
    await world.change_side_car(one, times={"stored": (since + timedelta(hours=1)).isoformat()})
    told = await world.costs(since)
    assert (told.total.jobs, told.agreed, told.without_side_car) == (1, 1, {})


async def test_days_are_those_of_utc(world: World) -> None:
    ids = await world.restyle(0, 1)
    await world.change_side_car(ids[0], times={"stored": "2026-01-02T01:30:00+02:00"})
    await world.change_side_car(ids[1], times={"stored": "2026-01-02T23:30:00Z"})
    told = await world.costs()
    assert {day: of.jobs for day, of in told.days.items()} == {"2026-01-01": 1, "2026-01-02": 1}


async def test_old_side_cars_are_not_even_read(world: World) -> None:
    await world.restyle(0)
    for path in Path(world.store.uri).glob("images/*/metadata.json"):
        path.write_bytes(b"whatever")
    world.age(2 * 24 * 3600)
    assert (await world.costs(datetime.now(UTC) - timedelta(days=1))).unreadable == 0
    assert (await world.costs()).unreadable == 1


async def test_billing_is_read_to_the_last_page(world: World) -> None:
    await world.restyle(0)
    async with world.client() as client:
        url = await client.upload("a.jpg", PHOTO.read_bytes(), "image/jpeg")
        request = ReduxRequest(image=url, size="256*256", num_inference_steps=1)
        for seed in range(0, 210, 15):
            some = range(seed, seed + 15)
            await asyncio.gather(*(client.submit(request.model_copy(update={"seed": one})) for one in some))
    told = await world.costs()
    assert told.without_side_car["not of this output"].predictions == 210
    assert told.without_side_car["not of this output"].usd == 5.25
    assert world.emulator.ledger()["calls"]["billings"] == 3


async def test_an_output_without_anything_costs_nothing(world: World) -> None:
    told = await world.costs()
    assert told.total.jobs == 0
    assert sum(world.emulator.ledger()["calls"].values()) == 0


async def test_billing_that_is_busy_is_asked_again(world: World) -> None:
    await world.restyle(0)
    world.emulator.faults([{"on": "billings", "fault": "status", "status": 503}])
    assert (await world.costs()).agreed == 1


async def test_a_store_that_is_away_is_an_error(emulator: Emulator, moto: S3Server) -> None:
    store = s3_store(moto.bucket, "away", moto.session(), endpoint_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match="refused"):
        await World(emulator, store).costs()


@pytest.mark.parametrize(
    ("told", "usd"),
    [
        ({"price": 0.02}, 0.02),
        ({"price": "0.02"}, 0.02),
        ({"billing_type": "refund", "price": 0.02}, -0.02),
        ({"billing_type": "Refund", "price": -0.02}, -0.02),
        ({"price": None}, None),
        ({"price": "dear"}, None),
        ({"price": "nan"}, None),
        ({}, None),
    ],
)
def test_a_billing_record_is_read_leniently(told: dict[str, Any], usd: float | None) -> None:
    assert Billing.model_validate(told).usd == usd


def test_odd_facts_of_a_billing_record_are_left_out() -> None:
    odd = Billing.model_validate(
        {"uuid": 7, "created_at": "soon", "prediction": None, "billing_type": None, "order": {}}
    )
    assert (odd.uuid, odd.created_at, odd.prediction.uuid) == ("7", None, "")
    told = Billing.model_validate(
        {"created_at": "2026-01-02T03:04:05.123456789", "prediction": {"uuid": 9, "status": None}}
    )
    assert told.created_at == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert told.prediction.uuid == "9"


async def test_a_refund_in_a_record_of_its_own_is_taken_off(world: World) -> None:
    ids = await world.restyle(0, 1)
    records = [
        {"uuid": f"b{number}", "price": 0.025, "prediction": {"uuid": one}} for number, one in enumerate(ids)
    ]
    records += [
        {"uuid": "b2", "billing_type": "refund", "price": 0.025, "prediction": {"uuid": ids[0]}},
        {"uuid": "b3", "billing_type": "recharge", "price": 100, "prediction": None},
    ]
    page = json.dumps({"code": 200, "data": {"page": 1, "items": records}})
    async with RawServer(http(200, page)) as server, WaveSpeedClient("test-key", server.url) as client:
        told = await costs(client, world.store)
    assert (told.agreed, told.billed_usd) == (1, 0.025)
    assert [one.prediction_id for one in told.refunded.items] == [ids[0]]
    assert told.without_side_car == {}


NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "start"),
    [
        ("2026-02-28", datetime(2026, 2, 28, tzinfo=UTC)),
        ("2026-03-02", datetime(2026, 3, 2, tzinfo=UTC)),
        ("0d", datetime(2026, 3, 2, tzinfo=UTC)),
        ("7d", datetime(2026, 2, 23, tzinfo=UTC)),
    ],
)
def test_since_is_the_start_of_a_day(since: str, start: datetime) -> None:
    assert parse_since(since, NOW) == start


@pytest.mark.parametrize(
    "since", ["", "1w", "7", "-7d", "99999d9", "2026-2-1", "2026-02-30", "2026-03-03", "yesterday", "٧d"]
)
def test_a_since_that_is_none_is_refused(since: str) -> None:
    with pytest.raises(ConfigurationError, match="--since"):
        parse_since(since, NOW)


def test_more_days_than_the_calendar_has_are_refused() -> None:
    assert parse_since("99999d", NOW).year > 1700
    with pytest.raises(ConfigurationError, match="--since 99999d"):
        parse_since("99999d", datetime(200, 1, 1, tzinfo=UTC))


# As a command


@dataclass
class Shell:
    """Runs ``restyle costs``."""

    world: World
    prefect: PrefectServer

    @property
    def env(self) -> dict[str, str]:
        return {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.world.emulator.url}

    def costs(self, *options: str, out: str = "") -> Ended:
        return self.prefect.restyle("costs", "--out", out or self.world.store.uri, *options, env=self.env)


@pytest.fixture
def shell(world: World, prefect: PrefectServer) -> Shell:
    return Shell(world, prefect)


@pytest.mark.e2e
def test_the_command_tells_days_runs_billing_and_differences(shell: Shell) -> None:
    asyncio.run(shell.world.restyle(0, 1, run_id="the-run"))
    opened = asyncio.run(shell.world.submit(2))
    ended = shell.costs()
    assert (ended.status, ended.stderr) == (0, "")
    lines = [re.split(r"\s{2,}", line.strip()) for line in ended.stdout.splitlines()]
    days = [line for line in lines if re.fullmatch(r"\d{4}-\d\d-\d\d", line[0])]
    assert sum(int(jobs) for _, jobs, _, _ in days) == 2
    assert ["total", "2", "2", "0.0500"] in lines
    assert ["the-run", "2", "2", "0.0500"] in lines
    assert ["billed as recorded", "2"] in lines
    assert ["billed for this output", "0.0750"] in lines
    assert [opened, "0.0250", "the job is still open"] in lines


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_the_same_figures_without_lines_and_empty_cells_and_ids_stay_whole(
    shell: Shell, columns: int
) -> None:
    asyncio.run(shell.world.restyle(0, 1, run_id="the-run"))
    opened = asyncio.run(shell.world.submit(2))
    command = [
        sys.executable,
        "-m",
        "prefect_wavespeed",
        "costs",
        "--out",
        shell.world.store.uri,
    ]
    env = {**shell.prefect.env, **shell.env, "TERM": "xterm-256color"}
    lines = plain(on_terminal(command, columns=columns, env=env)).splitlines()
    assert max(map(len, lines)) <= columns
    assert not re.search(r"[^\x00-\x7f]", "".join(lines)), "no boxes"
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert ["total", "2", "2", "0.0500"] in cells
    assert ["the-run", "2", "2", "0.0500"] in cells
    assert ["billed for this output", "0.0750 USD"] in cells
    assert ["billed as recorded", "2 predictions"] in cells
    assert ["billed without a side-car: the job is still open", "1 prediction, 0.0250 USD"] in cells
    assert [opened, "0.0250", "the job is still open"] in cells


def test_json_is_one_object_on_stdout(shell: Shell) -> None:
    asyncio.run(shell.world.restyle(0))
    ended = shell.costs("--since", "7d", "--json")
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.count("\n") == 1
    told = json.loads(ended.stdout)
    assert (told["total"]["jobs"], told["agreed"]) == (1, 1)
    since = datetime.fromisoformat(told["since"])
    assert (since.hour, since.minute) == (0, 0)
    assert timedelta(days=7) <= datetime.now(UTC) - since <= timedelta(days=8, hours=1)


@pytest.mark.parametrize(
    ("options", "out", "says"),
    [
        (("--since", "1w"), "", "--since 1w"),
        ((), "nowhere/at/all", "no such directory"),
        (("--wavespeed", "nobody"), "", "wavespeed/nobody"),
    ],
)
def test_a_mistake_is_one_line(shell: Shell, options: tuple[str, ...], out: str, says: str) -> None:
    ended = shell.costs(*options, out=out)
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert says in ended.stderr
    assert KEY not in ended.stderr
