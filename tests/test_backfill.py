"""Manifests of a day on a real Prefect server: by schedule, for a range of days, and as a list of days."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.utilities.callables import parameter_schema

from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.deployments.backfill import Backfill, begin_backfill
from prefect_wavespeed.flows import restyle_batch
from tests.support.batches import pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.in_process import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended

DAYS = [date(2026, 11, number) for number in (1, 2, 3, 4)]
SMALL = {"params": {"size": "256*256"}}
NIGHTLY = {"schedule": {"cron": "30 23 * * *", "timezone": "America/New_York"}, "active": True}


@dataclass
class World:
    """A deployment on a Prefect server that nobody works for, and an emulator."""

    prefect: PrefectServer
    emulator: Emulator
    folder: Path
    name: str

    @property
    def env(self) -> dict[str, str]:
        return {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": self.emulator.url}

    @property
    def out(self) -> str:
        return str(self.folder / "out")

    def deploy(self, manifest: str, schedules: Sequence[Any] = (NIGHTLY,), **options: Any) -> dict[str, Any]:
        flow = self.prefect.call("POST", "/flows/", {"name": "restyle-batch"})
        deployment = {
            "name": self.name,
            "flow_id": flow["id"],
            "parameters": {"manifest": manifest, "output": self.out, "options": {**SMALL, **options}},
            "parameter_openapi_schema": parameter_schema(restyle_batch).model_dump_for_openapi(),
            "schedules": schedules,
        }
        found: dict[str, Any] = self.prefect.call("POST", "/deployments/", deployment)
        return found

    @property
    def template(self) -> str:
        return str(self.folder / "{date}.jsonl")

    def manifest(self, day: date, images: int, first: int = 0) -> None:
        rows = pictures(first + images)[first:]
        write_manifest(self.folder / f"{day}.jsonl", rows)

    def backfill(self, *options: str) -> Ended:
        return restyle("backfill", self.name, *options, prefect=self.prefect, env=self.env)

    def statuses(self, *options: str) -> list[str]:
        ended = self.backfill("--from", str(DAYS[0]), "--to", str(DAYS[-1]), "--json", *options)
        return [day["status"] for day in json.loads(ended.stdout)["days"]]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs that were begun, by day."""
        found = self.prefect.all("flow_runs", deployments={"name": {"any_": [self.name]}})
        begun = [run for run in found if run["parameters"].get("date")]
        return sorted(begun, key=lambda run: (run["parameters"]["date"], run["created"]))

    def carry_out(self, run_id: str) -> Summary:
        """Run what a worker would."""
        self.prefect.call(
            "POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": "PENDING"}, "force": True}
        )

        async def carried_out() -> Summary:
            async with get_client() as client:
                run = await client.read_flow_run(UUID(run_id))
            flow: Any = restyle_batch.aio
            parameters = flow.validate_parameters(run.parameters)
            running: Any = run_flow(flow, flow_run=run, parameters=parameters)
            summary: Summary = await running
            return summary

        with self.prefect.used_here():
            return asyncio.run(carried_out())


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.05", "0.1") as running:
        yield running


@pytest.fixture
def world(
    prefect: PrefectServer,
    emulator: Emulator,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    emulator.reset()
    world = World(prefect, emulator, tmp_path, f"days-{abs(hash(request.node.name))}")
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    yield world
    with suppress(Exception):
        found = prefect.call("GET", f"/deployments/name/restyle-batch/{world.name}")
        prefect.call("DELETE", f"/deployments/{found['id']}")


def test_a_scheduled_run_is_of_its_day_in_the_time_zone_of_its_schedule_and_stays_so(world: World) -> None:
    deployment = world.deploy(world.template)
    world.prefect.call("POST", f"/deployments/{deployment['id']}/schedule", {"min_runs": 1, "max_runs": 1})
    (run,) = world.prefect.all("flow_runs", deployments={"name": {"any_": [world.name]}})
    at = datetime.fromisoformat(run["expected_start_time"])  # 23:30 in New York is the next day in UTC
    day = at.date() - timedelta(days=1)
    world.manifest(day, 2)

    summary = world.carry_out(run["id"])
    assert (summary.partition, summary.counts) == (day, {"stored": 2})
    assert summary.manifest == world.template.replace("{date}", day.isoformat())
    assert world.prefect.call("GET", f"/flow_runs/{run['id']}")["name"] == f"restyle {day}.jsonl"

    (schedule,) = deployment["schedules"]
    elsewhere = {"schedule": {"cron": "30 23 * * *", "timezone": "Asia/Tokyo"}}
    path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
    world.prefect.call("PATCH", path, elsewhere)
    again = world.carry_out(run["id"])
    assert (again.partition, again.counts) == (day, {"stored": 2})
    assert world.emulator.ledger()["billed"] == 2


@pytest.mark.e2e
def test_a_range_is_begun_once_each_within_one_cap_and_a_list_says_which_days_are_whole(world: World) -> None:
    world.deploy(world.template)
    world.manifest(DAYS[0], 2)
    world.manifest(DAYS[1], 3, first=10)
    world.manifest(DAYS[3], 1, first=20)
    assert world.statuses("--dry-run") == ["new", "new", "refused", "new"]
    refused = world.backfill("--from", str(DAYS[0]), "--to", str(DAYS[3]), "--max-cost-usd", "0.1")
    assert (refused.status, world.runs) == (1, [])
    assert "--max-cost-usd 0.1: 3 days would cost 0.15 USD: give 0.15 or more" in refused.stderr
    dry = world.backfill("--from", str(DAYS[0]), "--to", str(DAYS[3]), "--max-cost-usd", "0.1", "--dry-run")
    assert dry.stdout.splitlines()[1] == "2026-11-02  3 would be billed, 0.075 USD"
    assert dry.stdout.splitlines()[-1].startswith("not enough: --max-cost-usd 0.1: 3 days would cost 0.15")

    assert world.statuses("--max-cost-usd", "0.3") == ["begun", "begun", "refused", "begun"]
    assert world.statuses("--max-cost-usd", "0.3") == ["earlier", "earlier", "refused", "earlier"]
    runs = world.runs
    assert [run["parameters"]["date"] for run in runs] == [str(DAYS[number]) for number in (0, 1, 3)]
    assert [run["parameters"]["options"] for run in runs] == [
        {**SMALL, "max_cost_usd": pytest.approx(usd)} for usd in (0.1, 0.15, 0.05)
    ]

    assert world.carry_out(runs[0]["id"]).counts == {"stored": 2}
    world.manifest(DAYS[1], 9, first=10)  # has become too dear for its part of the cap
    with pytest.raises(Exception, match="max_cost_usd"):
        world.carry_out(runs[1]["id"])
    missing = ["--missing-only", "--from", str(DAYS[0]), "--to", str(DAYS[1])]
    refused = world.backfill(*missing, "--max-cost-usd", "0.3")
    spent = "runs begun earlier have spent or may spend 0.2 USD"  # of 0.25: the first one is over
    assert f"would cost 0.225 USD, and {spent}: give 0.425" in refused.stderr
    begun = world.backfill(*missing, "--max-cost-usd", "1")
    assert begun.status == 0
    whole, day, total = begun.stdout.splitlines()
    assert whole == "2026-11-01  whole"
    assert day.startswith("2026-11-02  begun: run ")
    assert day.endswith(": 9 would be billed, 0.225 USD")
    assert total == "1 of 2 days begun, quoted at 0.225 USD"
    assert world.backfill(*missing, "--json").status == 0
    assert [run["parameters"]["date"] for run in world.runs] == [str(DAYS[n]) for n in (0, 1, 1, 3)]
    caps = [run["parameters"]["options"]["max_cost_usd"] for run in world.runs[:3]]
    assert caps == [pytest.approx(usd) for usd in (0.1, 0.15, 0.8)]  # of those two days, as one cap says

    write_manifest(
        world.folder / f"{DAYS[3]}.jsonl", [*pictures(1), {"image": str(world.folder / "gone.jpg")}]
    )
    with world.prefect.used_here():
        some: Any = {**SMALL, "on_bad_row": "skip", "max_failed": 1}
        restyle_batch(world.template, some, output=world.out, date=DAYS[3])
    listed = restyle("list", "--by", "day", "--out", world.out).stdout.splitlines()
    assert [line.split("\t")[:3] for line in listed] == [
        ["2026-11-01", "whole", "2 rows: 2 stored"],
        ["2026-11-02 to 2026-11-03", "no run", ""],
        ["2026-11-04", "not whole", "2 rows: 1 stored earlier, 1 failed"],
    ]
    found = json.loads(
        restyle("list", "--by", "day", "--since", "2026-11-02", "--out", world.out, "--json").stdout
    )
    (last,) = found["days"]
    assert (last["day"], last["whole"], last["counts"]) == ("2026-11-04", False, {"done": 1, "failed": 1})


async def _begin(world: World, last: date, *, missing_only: bool = False) -> list[str]:
    asked = Backfill(world.name, DAYS[0], last, missing_only, max_cost_usd=1.0)
    return [day.status for day in (await begin_backfill(asked)).days]


def _caps(world: World) -> list[float]:
    days = [run["parameters"]["date"] for run in world.runs]
    assert len(days) == len(set(days))
    return [run["parameters"]["options"]["max_cost_usd"] for run in world.runs]


def test_two_backfills_at_once_hand_out_no_more_than_the_cap(world: World) -> None:
    world.deploy(world.template)
    for day in DAYS:
        world.manifest(day, 1)

    async def at_once() -> tuple[list[str], list[str]]:
        return await asyncio.gather(_begin(world, DAYS[1]), _begin(world, DAYS[3]))

    with world.prefect.used_here():
        statuses = asyncio.run(at_once())
    assert sum(_caps(world)) <= 1 + 1e-9
    assert [day.count("begun") for day in zip(*statuses, strict=False)] == [1, 1]


def test_a_backfill_that_was_killed_on_the_way_is_completed_within_its_cap(world: World) -> None:
    world.deploy(world.template)
    for day in DAYS:
        world.manifest(day, 1)

    async def killed() -> None:
        task = asyncio.create_task(_begin(world, DAYS[3]))
        while not await asyncio.to_thread(lambda: world.runs):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with world.prefect.used_here():
        asyncio.run(killed())
        again = asyncio.run(_begin(world, DAYS[3]))
        assert again == sorted(again, reverse=True)
        assert again[0] == "earlier"
        in_flight = asyncio.run(_begin(world, DAYS[3], missing_only=True))
        assert in_flight == ["earlier"] * 4
    assert _caps(world) == [pytest.approx(0.25)] * 4


@pytest.mark.parametrize(
    ("days", "says"),
    [
        (("2026-02-01", "2026-02-30"), "--to 2026-02-30: no such day: give one as YYYY-MM-DD"),
        (("20260201", "2026-02-03"), "--from 20260201: no such day"),
        (("2025-01-01", "2025-04-11"), "would begin 101 runs, more than 100: give a shorter range, or --yes"),
        (("2026-11-01", "2026-11-01", "--max-cost-usd", "0"), "--max-cost-usd 0: must be greater than 0"),
    ],
)
def test_a_range_that_is_a_mistake_is_refused_before_anything_begins(
    days: tuple[str, ...], says: str, world: World
) -> None:
    tokyo = {"schedule": {"cron": "30 23 * * *", "timezone": "Asia/Tokyo"}}
    world.deploy(world.template, [NIGHTLY, tokyo])
    first, last, *more = days
    refused = world.backfill("--from", first, "--to", last, *more)
    assert (refused.status, refused.stdout) == (1, "")
    assert says in refused.stderr
    assert world.runs == []


def test_what_needs_no_server_is_refused_without_one(tmp_path: Path) -> None:
    def refused(first: str, last: str) -> str:
        ended = restyle("backfill", "--from", first, "--to", last)
        assert ended.status == 1
        return ended.stderr

    with temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_URL}):
        assert "the range is turned round" in refused("2026-11-15", "2026-11-01")
        assert "this day is in the future" in refused("2026-11-15", "2999-01-01")
        assert "no Prefect server with deployments: set PREFECT_API_URL" in refused(
            "2026-11-01", "2026-11-02"
        )


def test_a_manifest_without_a_date_and_an_unknown_deployment_are_refused(world: World) -> None:
    range_ = ("--from", "2026-11-01", "--to", "2026-11-02")
    unknown = world.backfill(*range_).stderr
    assert f"deployment {world.name}: {world.prefect.url}/ has none of this name" in unknown
    world.deploy("s3://bucket/in/")
    assert "manifest s3://bucket/in/ of deployment" in (refused := world.backfill(*range_)).stderr
    assert "it has no {date}, so all days would be the same" in refused.stderr
