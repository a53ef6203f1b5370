"""A batch in shards on two worker processes, with PostgreSQL and Redis behind Prefect's server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.blocks import WaveSpeed
from tests.support.backends import behind_prefect, postgresql, redis
from tests.support.batch_shell import KEY, TIMES
from tests.support.batches import pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, wait_until
from tests.support.records import report_rows

pytestmark = pytest.mark.e2e

IMAGES = int(os.environ.get("RESTYLE_SHARDS_IMAGES", "400"))
MEASURED = IMAGES >= 2_000  # enough for the times in docs/scaling.md: most of them is not starting
SLOTS = 50


@dataclass
class World:
    """A Prefect server with the project deployed on it, an emulator, a place for workers."""

    prefect: PrefectServer
    emulator: Emulator
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """What workers find in their environment, on top of the server's."""
        return {**TIMES, "PREFECT_WORKER_HEARTBEAT_SECONDS": "5"}

    def deploy(self) -> None:
        """Set it all up as a user would."""
        wavespeed = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.emulator.url}
        assert self.prefect.restyle("setup", "--out", str(self.folder / "none"), env=wavespeed).status == 0
        with self.prefect.used_here():
            block = WaveSpeed.load("default")
            assert isinstance(block, WaveSpeed)
            block.max_in_flight = SLOTS  # of one process: two have twice as many
            block.save("default", overwrite=True)
        self.prefect.deploy("--name", "restyle-batch")

    @contextmanager
    def worker(self, name: str, limit: int) -> Iterator[Command]:
        """A worker process that runs so many flows at once."""
        start = ["-m", "prefect", "worker", "start", "--pool", "restyle", "--name", name]
        with (self.folder / f"{name}.log").open("wb"):
            command = self.prefect.python(*start, "--limit", str(limit), env=self.env)
            try:
                yield command
            finally:
                kill_all(command.process.pid)
                ended = command.ended(timeout=30)
                print(f"--- {name}", ended.stdout[-3000:], ended.stderr[-6000:], file=sys.stderr)

    def start(self, manifest: str, out: Path, shards: int, **options: Any) -> str:
        """Create a run of the deployment, and return its id."""
        deployment = self.prefect.call("GET", "/deployments/name/restyle-batch/restyle-batch")
        given = {
            "manifest": manifest,
            "options": {"params": {"size": "256*256"}, **options},
            "output": str(out),
            "shards": shards,
        }
        body = {"parameters": given, "state": {"type": "SCHEDULED"}}
        run = self.prefect.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body)
        return str(run["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """A flow run as it is."""
        found: dict[str, Any] = self.prefect.call("GET", f"/flow_runs/{run_id}")
        return found

    def state(self, run_id: str, kind: str, name: str | None = None) -> None:
        """Bring a flow run into a state, whatever its present one."""
        body = {"state": {"type": kind, "name": name}, "force": kind == "SCHEDULED"}
        self.prefect.call("POST", f"/flow_runs/{run_id}/set_state", body)

    def children(self, run_id: str) -> list[dict[str, Any]]:
        """The child runs of a run, in their options."""
        found = self.prefect.all("flow_runs", flow_runs={"parent_flow_run_id": {"any_": [run_id]}})
        return sorted(found, key=lambda run: (run["parameters"]["shard"]["number"], run["created"]))

    def ended(self, run_id: str, timeout: float = 600) -> dict[str, Any]:
        """A flow run when it has ended."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_until(lambda: self.run(run_id)["state_type"] in final, timeout)
        return self.run(run_id)

    def stored(self, out: Path) -> int:
        """How many jobs are done."""
        return len(list(out.glob("images/*/metadata.json")))


def report(out: Path, run_id: str) -> tuple[Summary, list[ReportRow]]:
    """A run's report, which must be all that is in its folder."""
    (folder,) = (out / "runs").glob(f"dt=*/{run_id}")
    assert {path.name for path in folder.rglob("*") if path.is_file()} - {"caps.json"} == {
        "report.jsonl",
        "report.parquet",
        "gallery.html",
        "summary.json",
    }
    summary = Summary.model_validate_json((folder / "summary.json").read_bytes())
    return summary, report_rows((folder / "report.jsonl").read_bytes())


def seconds(run: dict[str, Any]) -> float:
    """From a run's start to its end."""
    began, ended = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
    return (ended - began).total_seconds()


def kill_all(pid: int) -> None:
    """Kill a process and all that it has started: also what it has put into groups of their own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, rest = stat.parent.name, stat.read_text().rpartition(")")[2]
            parents[int(number)] = int(rest.split()[1])
    family, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found}
        family |= found
    for one in family:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("shards")
    with (
        postgresql() as database,
        redis() as messages,
        PrefectServer(
            folder / "prefect",
            {
                "PREFECT_SERVER_UI_ENABLED": "false",
                "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
                **behind_prefect(database, messages),
            },
        ) as prefect,
        Emulator("--prerendered", "--latency", "2.5", "3.5") as emulator,
    ):
        world = World(prefect, emulator, folder)
        world.deploy()
        yield world


@pytest.fixture(autouse=True)
def _fresh(world: World) -> None:
    world.emulator.reset()


def test_two_workers_make_one_report_of_hundreds_of_images(world: World) -> None:
    manifest = write_manifest(world.folder / "m.jsonl", pictures(IMAGES))
    took = {}
    with world.worker("a", 2), world.worker("b", 2):
        for shards in (1, 2) if MEASURED else (2,):
            world.emulator.reset()
            out = world.folder / f"{shards}-shards"
            run = world.ended(world.start(manifest, out, shards, concurrency=2 * SLOTS))
            assert run["state_type"] == "COMPLETED", run["state"]["message"]
            took[shards] = seconds(run)

            ledger = world.emulator.ledger()
            assert (len(ledger["predictions"]), ledger["billed"]) == (IMAGES, IMAGES)
            summary, rows = report(out, run["id"])
            assert (summary.counts, summary.images) == ({"stored": IMAGES}, IMAGES)
            assert summary.spent_usd == pytest.approx(0.025 * IMAGES)
            assert [row.id for row in rows] == [f"n{n}" for n in range(1, IMAGES + 1)]
            assert len({row.prediction_id for row in rows}) == IMAGES
            assert world.stored(out) == IMAGES
            children = world.children(run["id"])
            assert [child["name"] for child in children] == (
                ["restyle m.jsonl, 1/2", "restyle m.jsonl, 2/2"] if shards == 2 else []
            )
            assert {child["state_type"] for child in children} <= {"COMPLETED"}
    if MEASURED:
        one, two = took[1], took[2]
        print(f"\n{IMAGES:,} images, {SLOTS} in flight a process: {one:.1f} s in one, {two:.1f} s in two")
        assert two < 0.85 * one  # slots, not the processor, bound both: half, and what starting takes


def test_a_worker_that_is_killed_in_the_middle_costs_time_and_no_money(world: World) -> None:
    manifest, out = write_manifest(world.folder / "k.jsonl", pictures(200)), world.folder / "killed"
    with world.worker("c", 2):  # has the whole run, and one place for a shard
        run_id = world.start(manifest, out, 2, concurrency=20, max_cost_usd=10)
        wait_until(lambda: len(world.children(run_id)) == 2)
        with world.worker("d", 1) as victim:
            wait_until(lambda: {child["state_type"] for child in world.children(run_id)} == {"RUNNING"})
            before = world.stored(out)
            wait_until(lambda: world.stored(out) >= before + 30)
            began = {child["id"] for child in world.children(run_id)}
            kill_all(victim.process.pid)
            run = world.ended(run_id)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["run_count"] == 2
    crashed = [child for child in world.children(run_id) if child["state_type"] == "CRASHED"]
    assert [child["id"] in began for child in crashed] == [True]
    ledger = world.emulator.ledger()
    assert (len(ledger["predictions"]), ledger["billed"]) == (200, 200)
    summary, rows = report(out, run_id)
    assert summary.counts == {"stored": 200}
    assert summary.spent_usd == pytest.approx(5)
    assert [row.id for row in rows] == [f"n{n}" for n in range(1, 201)]


def test_a_run_that_is_killed_and_tried_again_finds_its_shards_where_they_are(world: World) -> None:
    manifest, out = write_manifest(world.folder / "p.jsonl", pictures(200)), world.folder / "parent"
    with world.worker("e", 1) as victim:
        run_id = world.start(manifest, out, 2, concurrency=20)
        wait_until(lambda: len(world.children(run_id)) == 2)
        with world.worker("f", 3):
            wait_until(lambda: world.stored(out) >= 20)
            kill_all(victim.process.pid)
            world.state(run_id, "SCHEDULED", "AwaitingRetry")
            run = world.ended(run_id)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["run_count"] == 2
    assert [child["state_type"] for child in world.children(run_id)] == ["COMPLETED"] * 2
    ledger = world.emulator.ledger()
    assert (len(ledger["predictions"]), ledger["billed"]) == (200, 200)
    summary, _ = report(out, run_id)
    assert summary.counts == {"stored": 200}
    assert summary.spent_usd == pytest.approx(5)


def test_a_run_that_is_cancelled_takes_its_shards_with_it_and_another_goes_on(world: World) -> None:
    manifest, out = write_manifest(world.folder / "x.jsonl", pictures(300)), world.folder / "cancelled"
    with world.worker("g", 3):
        # two images a second: not done before all runs are cancelled
        run_id = world.start(manifest, out, 2, concurrency=6)
        wait_until(lambda: world.stored(out) >= 5)
        world.state(run_id, "CANCELLING")
        for one in (run_id, *(child["id"] for child in world.children(run_id))):
            assert world.ended(one)["state_type"] == "CANCELLED"
        assert world.stored(out) < 300
        again = world.ended(world.start(manifest, out, 2, concurrency=2 * SLOTS))
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    ledger = world.emulator.ledger()
    assert (len(ledger["predictions"]), ledger["billed"]) == (300, 300)
