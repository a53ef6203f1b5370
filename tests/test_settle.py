"""Settling finishes every open job it can, bills nothing, and is safe beside runners and beside itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.errors import AuthenticationError, PredictionFailedError, StoreError, UnavailableError
from prefect_wavespeed.ledger.records import Metadata
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.settling.settle import settle
from prefect_wavespeed.settling.summary import Settled
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support import settler
from tests.support.emulator_process import Emulator
from tests.support.engine import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended, wait_until
from tests.support.runners import TIMES
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server
from tests.support.schemas import check

_SETTINGS = Settings(
    lease_seconds=float(TIMES["RESTYLE_LEASE_SECONDS"]),
    submit_timeout_seconds=float(TIMES["RESTYLE_SUBMIT_TIMEOUT_SECONDS"]),
    reconcile_seconds=float(TIMES["RESTYLE_RECONCILE_SECONDS"]),
    poll_timeout_seconds=6,
)
_OLD = 3600.0  # seconds: more than any lease
_WEEK = 8 * 24 * 3600.0


@dataclass
class World:
    """The emulator and an output; nothing done here may bill anything."""

    emulator: Emulator
    store: Store
    env: dict[str, str]

    def start(self, what: str, *options: str) -> Command:
        """Start a process of tests/settler.py."""
        return settler.start(what, self.store.uri, self.emulator.url, *options, env=self.env)

    def submit(self, count: int, *options: str) -> None:
        """Let a process submit as many jobs, and be killed right after that."""
        assert self.start("submit", "--count", str(count), *options).ended().status == -signal.SIGKILL

    async def settle(self, url: str = "", key: str = "test-key", **settings: float) -> Settled:
        """Settle in this process; nothing is submitted."""
        before = self.submissions
        async with WaveSpeedClient(key, url or self.emulator.url, submit_timeout=1, timeout=2) as client:
            terms = _SETTINGS.model_copy(update=settings)
            settled = await settle(client, self.store, settler.RUN, terms)
        assert self.submissions == before
        return settled

    def settle_elsewhere(self, *options: str) -> Command:
        """Settle in a process of its own."""
        return self.start("settle", *options)

    @property
    def submissions(self) -> int:
        """POSTs to the model so far."""
        calls: int = self.emulator.ledger()["calls"]["submit"]
        return calls

    async def paths(self, prefix: str) -> list[str]:
        """What is there below a prefix."""
        return sorted(entry.path for entry in await self.store.list(prefix))

    async def side_cars(self) -> list[Metadata]:
        """All side-cars; each must be valid against the schema."""
        found = []
        for path in await self.paths("images/"):
            if path.endswith("/metadata.json"):
                data = await self.store.get(path) or b""
                check("metadata", data)
                found.append(Metadata.model_validate_json(data))
        return found

    async def prove_all_stored(self, count: int) -> list[Metadata]:
        """As many jobs are stored, each was billed once, and nothing is open."""
        side_cars = await self.side_cars()
        assert len(side_cars) == count
        predictions = self.emulator.ledger()["predictions"]
        assert sorted(p["id"] for p in predictions) == sorted(one.prediction.id for one in side_cars)
        assert [p for p in predictions if not p["billed"]] == []
        assert await self.paths("open/") == []
        return side_cars

    def age(self, seconds: float, pattern: str = "open/*/*.json") -> None:
        """Let what is in the directory have been written earlier."""
        then = time.time() - seconds
        for path in Path(self.store.uri).glob(pattern):
            os.utime(path, (then, then))


@pytest.fixture
def world(emulator: Emulator, tmp_path: Path) -> World:
    return World(emulator, directory_store(tmp_path / "out"), {})


@pytest.fixture(params=["directory", pytest.param("moto", marks=pytest.mark.e2e)])
def any_world(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> World:
    if request.param == "directory":
        return World(emulator, directory_store(tmp_path / "out"), {})
    return _on_s3(emulator, request.getfixturevalue("moto"), tmp_path.name)


def _on_s3(emulator: Emulator, server: S3Server, prefix: str) -> World:
    store = s3_store(server.bucket, prefix, server.session(), endpoint_url=server.endpoint)
    return World(emulator, store, server.env)


def _counts(settled: Settled) -> dict[str, int]:
    """How many jobs had each outcome, without those that none had."""
    counts: dict[str, int] = settled.model_dump(
        exclude={"reasons", "problems", "problems_left_out", "warnings"}
    )
    return {name: count for name, count in counts.items() if count}


# What a runner leaves behind


async def test_what_a_killed_runner_has_submitted_is_stored_and_billed_once(any_world: World) -> None:
    any_world.submit(40)
    assert _counts(await any_world.settle()) == {"stored": 40}
    side_cars = await any_world.prove_all_stored(40)
    assert {one.cost.usd for one in side_cars} == {0.025}
    assert _counts(await any_world.settle()) == {}


@pytest.mark.e2e
async def test_what_was_submitted_and_never_recorded_is_found_in_the_history(world: World) -> None:
    world.submit(30, "--unrecorded")
    assert [path for path in await world.paths("open/") if path.endswith(".prediction.json")] == []
    world.age(_OLD)
    assert _counts(await world.settle()) == {"stored": 30}
    side_cars = await world.prove_all_stored(30)
    assert {one.cost.usd for one in side_cars} == {0.025}
    assert world.emulator.ledger()["calls"]["history"] < 30  # one scan serves them all


@pytest.mark.e2e
async def test_a_lease_is_waited_for_by_the_clock_of_s3(emulator: Emulator, moto: S3Server) -> None:
    world = _on_s3(emulator, moto, "lease")
    world.submit(3, "--unrecorded")
    assert _counts(await world.settle()) == {"running": 3}
    await asyncio.sleep(_SETTINGS.lease_seconds + 2)
    assert _counts(await world.settle()) == {"stored": 3}
    await world.prove_all_stored(3)


async def test_young_claims_are_left_alone(world: World) -> None:
    world.submit(3, "--unrecorded")
    before = await world.paths("")
    settled = await world.settle()
    assert _counts(settled) == {"running": 3}
    assert settled.problems == []
    assert await world.paths("") == before
    assert world.emulator.ledger()["calls"]["history"] == 0


async def test_what_was_never_submitted_is_reported_and_left_to_the_next_run(world: World) -> None:
    assert world.start("submit", "--at", "before submit").ended().status == -signal.SIGKILL
    world.age(_OLD)
    settled = await world.settle()
    assert _counts(settled) == {"not_submitted": 1}
    (problem,) = settled.problems
    assert "nothing was submitted" in problem.message
    assert problem.source is not None
    await restyle(world.emulator.url, world.store, settings=_SETTINGS)
    await world.prove_all_stored(1)


async def test_what_was_never_submitted_for_a_week_has_failed_for_good(world: World) -> None:
    assert world.start("submit", "--at", "before submit").ended().status == -signal.SIGKILL
    world.age(_WEEK)
    settled = await world.settle()
    assert _counts(settled) == {"failed": 1}
    assert "within 7 days" in settled.problems[0].message
    (letter,) = await world.paths("failed/")
    check("dead-letter", await world.store.get(letter) or b"")
    assert await world.paths("open/") == []
    with pytest.raises(PredictionFailedError, match="within 7 days"):
        await restyle(world.emulator.url, world.store)
    assert world.submissions == 0
    await restyle(world.emulator.url, world.store, retry_failed=True)
    await world.prove_all_stored(1)


async def test_what_is_done_already_is_closed(world: World) -> None:
    assert world.start("restyle", "--at", "before delete *open/*").ended().status == -signal.SIGKILL
    assert len(await world.paths("open/")) == 2
    assert _counts(await world.settle()) == {"closed": 1}
    await world.prove_all_stored(1)


async def test_what_has_failed_already_is_closed(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1400}])
    world.submit(1)
    opened = {path: await world.store.get(path) for path in await world.paths("open/")}
    assert _counts(await world.settle()) == {"failed": 1}
    for path, data in opened.items():  # as if it had been killed before the removal
        await world.store.put(path, data or b"", "application/json")
    assert _counts(await world.settle()) == {"closed": 1}
    assert await world.paths("open/") == []
    assert len(await world.paths("failed/")) == 1


async def test_a_record_whose_claim_is_gone_is_left_alone(world: World) -> None:
    world.submit(1)
    for path in await world.paths("open/"):
        if path.endswith(".claim.json"):
            await world.store.delete([path])
    settled = await world.settle()
    assert _counts(settled) == {"error": 1}
    assert "its claim is gone" in settled.problems[0].message
    assert len(await world.paths("open/")) == 1


# What WaveSpeedAI makes of it


async def test_failed_for_good_is_a_dead_letter_and_does_not_stop_the_others(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}])
    world.submit(5)
    settled = await world.settle()
    assert _counts(settled) == {"stored": 4, "failed": 1}
    (failed,) = [p for p in world.emulator.ledger()["predictions"] if p["status"] == "failed"]
    (problem,) = settled.problems
    assert problem.prediction_id == failed["id"]
    assert "moderated" in problem.message
    (path,) = await world.paths("failed/")
    letter = json.loads(await world.store.get(path) or b"")
    check("dead-letter", await world.store.get(path) or b"")
    assert (letter["job_key"], letter["error"]["code"]) == (problem.job_key, 1200)
    assert await world.paths("open/") == []


async def test_what_may_be_tried_again_stays_open_for_the_next_run(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 5000}])
    world.submit(1)
    settled = await world.settle()
    assert _counts(settled) == {"retryable": 1}
    assert "may be tried again" in settled.problems[0].message
    assert await world.paths("failed/") == []
    await restyle(world.emulator.url, world.store, settings=_SETTINGS)
    assert world.emulator.ledger()["billed"] == 1
    assert await world.paths("open/") == []


@pytest.mark.e2e
async def test_a_prediction_that_is_stuck_does_not_keep_the_others_waiting(world: World) -> None:
    stuck = {"on": "prediction", "fault": "stuck", "times": None}
    world.emulator.faults([stuck])
    world.submit(70)  # more than are worked on at once
    world.emulator.faults([])
    world.submit(5, "--first", "70")
    settled = await world.settle(poll_timeout_seconds=1)
    assert _counts(settled) == {"stored": 5, "not_ready": 70}
    assert len(await world.side_cars()) == 5


async def test_what_is_not_ready_at_first_is_waited_for(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "slow", "seconds": 3}])
    world.submit(4)
    assert _counts(await world.settle()) == {"stored": 4}
    await world.prove_all_stored(4)


async def test_what_the_claim_says_of_flagged_and_unchecked_pictures_is_kept(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "nsfw", "times": None}])
    for number, policy in enumerate(("keep", "quarantine", "drop")):
        world.submit(1, "--nsfw", policy, "--first", str(number))
    world.emulator.faults([])  # then nothing says whether a picture is safe
    for number, policy in enumerate(("keep", "quarantine"), 3):
        world.submit(1, "--nsfw", "drop", "--nsfw-unchecked", policy, "--first", str(number))
    settled = await world.settle()
    assert _counts(settled) == {"stored": 5}
    assert settled.warnings == {"not_checked": 1}
    side_cars = {one.variant: one for one in await world.prove_all_stored(5)}
    keys = [side_cars[variant].outputs[0].key for variant in range(5)]
    assert [key and key.split("/")[0] for key in keys] == [
        *("images", "quarantine", None),
        *("images", "quarantine"),
    ]


async def test_a_job_that_is_open_at_another_api_is_left_alone(world: World) -> None:
    world.submit(2)
    world.submit(1, "--unrecorded", "--first", "2")
    world.age(_OLD)
    before = await world.paths("")
    with Emulator() as other:
        settled = await world.settle(other.url)
        calls = other.ledger()["calls"]
    assert _counts(settled) == {"other_api": 3}
    assert world.emulator.url in settled.problems[0].message
    assert await world.paths("") == before
    assert {name for name, count in calls.items() if count} == {"balance"}


# Several at once, and killed


async def test_two_at_once_bill_nothing_and_store_everything(any_world: World) -> None:
    any_world.submit(20)
    unrecorded = 0 if any_world.store.access else 10  # on S3 nothing can be made to look old
    if unrecorded:
        any_world.submit(unrecorded, "--unrecorded", "--first", "20")
        any_world.age(_OLD)
    both = [any_world.settle_elsewhere() for _ in range(2)]
    settled = [Settled.model_validate_json(one.ended().stdout) for one in both]
    assert [one.problems for one in settled] == [[], []]
    await any_world.prove_all_stored(20 + unrecorded)
    assert any_world.submissions == 20 + unrecorded


@pytest.mark.e2e
async def test_settling_beside_a_runner_changes_nothing_for_it(world: World) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "slow", "seconds": 1, "times": None}])
    runner = world.start("restyle", "--count", "20")
    while runner.running:
        async with WaveSpeedClient("test-key", world.emulator.url, submit_timeout=1) as client:
            settled = await settle(client, world.store, settler.RUN, _SETTINGS)
        assert settled.problems == []
    ended = runner.ended()
    assert (ended.status, ended.stderr) == (0, "")
    await world.prove_all_stored(20)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "place",
    [
        "after history",
        "after create *.prediction.json",
        "during download",
        "before create */metadata.json",
        "after create */metadata.json",
    ],
)
async def test_killed_in_the_middle_it_is_done_by_the_next(world: World, place: str) -> None:
    world.submit(4)
    world.submit(4, "--unrecorded", "--first", "4")
    world.age(_OLD)
    world.emulator.faults([{"on": "cdn", "fault": "slow", "seconds": 1}])
    assert world.settle_elsewhere("--at", place).ended().status == -signal.SIGKILL
    settled = await world.settle()
    assert settled.problems == []
    await world.prove_all_stored(8)
    assert world.submissions == 8


# What goes wrong


async def test_what_goes_wrong_with_one_job_is_that_jobs_alone(world: World) -> None:
    world.submit(3)
    claims = [path for path in await world.paths("open/") if path.endswith(".claim.json")]
    await world.store.put(claims[0], b"{}", "application/json")
    settled = await world.settle()
    assert _counts(settled) == {"stored": 2, "error": 1}
    assert settled.problems[0].job_key == claims[0].split("/")[1]


async def test_a_claim_that_holds_another_job_is_not_believed(world: World) -> None:
    world.submit(2)
    one, other = [path for path in await world.paths("open/") if path.endswith(".claim.json")]
    await world.store.put(one, await world.store.get(other) or b"", "application/json")
    settled = await world.settle()
    assert _counts(settled) == {"stored": 1, "error": 1}
    assert "another job" in settled.problems[0].message


async def test_a_history_that_cannot_be_read_leaves_the_jobs_as_they_are(world: World) -> None:
    world.submit(2, "--unrecorded")
    world.age(_OLD)
    world.emulator.faults([{"on": "history", "fault": "status", "status": 400, "times": None}])
    before = await world.paths("open/")
    assert _counts(await world.settle()) == {"error": 2}
    assert await world.paths("open/") == before
    world.emulator.faults([])
    assert _counts(await world.settle()) == {"stored": 2}


async def test_what_asks_to_wait_is_left_to_the_next_turn_and_nothing_is_lost(world: World) -> None:
    world.submit(2, "--unrecorded")
    world.age(_OLD)
    wait: dict[str, Any] = {"fault": "status", "status": 503, "times": None, "retry_after": 100}
    for call in ("history", "cdn", "balance"):
        world.emulator.faults([{"on": call, **wait}])
        before, since = await world.paths("open/"), time.monotonic()
        with suppress(UnavailableError):
            assert set(_counts(await world.settle())) == {"error"}
        assert time.monotonic() - since < 60
        assert set(before) <= set(await world.paths("open/"))
    world.emulator.faults([])
    assert _counts(await world.settle()) == {"stored": 2}


async def test_a_refused_key_is_one_error(world: World) -> None:
    world.submit(3)
    world.emulator.faults([{"on": "balance", "fault": "status", "status": 401}])
    with pytest.raises(AuthenticationError):
        await world.settle()
    assert len(await world.paths("open/")) == 6


async def test_an_api_that_is_away_is_one_error(world: World) -> None:
    world.submit(3)
    world.emulator.faults([{"on": "balance", "fault": "status", "status": 503, "times": None}])
    with pytest.raises(UnavailableError):
        await world.settle()
    assert len(await world.paths("open/")) == 6


@pytest.mark.e2e
async def test_a_store_that_goes_away_is_one_error_and_no_dead_letter(
    emulator: Emulator, moto: S3Server
) -> None:
    world = _on_s3(emulator, moto, "going-away")
    world.submit(10)
    with proxy(moto) as (way, seen):
        through = _on_s3(emulator, seen, "going-away")
        await through.store.ensure_conditional_put()
        emulator.faults([{"on": "cdn", "fault": "slow", "seconds": 1, "times": None}])
        settling = asyncio.create_task(through.settle())
        while not any("prediction.json" in request for request in way.request_lines):
            await asyncio.sleep(0.05)
        way.down()
        with pytest.raises(StoreError, match="refused"):
            await settling
    assert await world.paths("failed/") == []
    emulator.faults([])
    assert (await world.settle()).problems == []
    await world.prove_all_stored(10)


async def test_nothing_open_asks_nobody_anything(world: World) -> None:
    assert _counts(await world.settle()) == {}
    assert sum(world.emulator.ledger()["calls"].values()) == 0


# As a flow and as a command


@dataclass
class Shell:
    """Runs ``restyle settle`` against a Prefect server."""

    world: World
    prefect: PrefectServer

    def settle(self, *options: str, out: str = "") -> Ended:
        env = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": self.world.emulator.url}
        return self.prefect.restyle("settle", "--out", out or self.world.store.uri, *options, env=env)

    def runs(self) -> list[dict[str, Any]]:
        """The flow runs of this output, the oldest first."""
        runs = self.prefect.all("flow_runs", sort="START_TIME_ASC")
        return [run for run in runs if run["parameters"].get("output") == self.world.store.uri]


@pytest.fixture
def shell(world: World, prefect: PrefectServer) -> Shell:
    return Shell(world, prefect)


@pytest.mark.e2e
def test_the_command_tells_a_line_a_group_and_the_problems(shell: Shell) -> None:
    shell.world.emulator.faults(
        [{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}]
    )
    shell.world.submit(4)
    ended = shell.settle()
    assert (ended.status, ended.stderr) == (0, "")
    stored, failed, problem = ended.stdout.splitlines()
    assert stored.split() == ["3", "stored"]
    assert failed.split()[:3] == ["1", "failed", "for"]
    assert problem.startswith("1 failed: moderated (code 1200): ")
    again = shell.settle()
    assert (again.status, again.stdout) == (0, "nothing is open\n")


@pytest.mark.e2e
def test_the_flow_is_one_task_run_with_events_and_an_artifact(shell: Shell) -> None:
    shell.world.emulator.faults(
        [{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}]
    )
    shell.world.submit(4)
    ended = shell.settle("--json")
    assert (ended.status, ended.stderr) == (0, "")
    settled = Settled.model_validate_json(ended.stdout)
    assert _counts(settled) == {"stored": 3, "failed": 1}
    assert ended.stdout.count("\n") == 1

    (run,) = shell.runs()
    wait_until(lambda: shell.runs()[0]["state_type"] == "COMPLETED")
    assert shell.runs()[0]["state"]["message"] == "3 stored, 1 failed for good"
    mine = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    wait_until(lambda: shell.prefect.all("task_runs", **mine))
    assert [task["name"] for task in shell.prefect.all("task_runs", **mine)] == [
        f"settle {shell.world.store.uri}"
    ]
    (artifact,) = shell.prefect.all("artifacts", **mine)
    assert "| 3 | stored |" in artifact["data"]
    assert artifact["data"].index("moderated") < artifact["data"].index("| 3 | stored |")

    def events() -> list[str]:
        keys = {p["id"] for p in shell.world.emulator.ledger()["predictions"]}
        emitted = shell.prefect.events("wavespeed.job.")
        return sorted(one["event"] for one in emitted if one["payload"]["prediction_id"] in keys)

    wait_until(lambda: len(events()) == 4)
    assert events() == ["wavespeed.job.failed", *["wavespeed.job.stored"] * 3]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("nowhere/at/all", "no such directory"),
        ("gs://bucket/a", "unsupported scheme"),
        ("s3-bucket/nobody", "nobody"),
    ],
)
def test_an_output_that_is_none_is_one_line(shell: Shell, out: str, says: str) -> None:
    ended = shell.settle(out=out)
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert out in ended.stderr
    assert says in ended.stderr
