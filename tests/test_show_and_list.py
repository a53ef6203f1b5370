"""`restyle show` and `restyle list`, as processes, on a directory and on S3. Neither needs Prefect."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.inspect import jobs as browsing
from prefect_wavespeed.inspect.advice import after_failure
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.inspect.jobs import find, jobs
from prefect_wavespeed.job import Restyled
from prefect_wavespeed.ledger.records import Failure
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support import settler
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server
from tests.support.terminal import on_terminal, plain

pytestmark = pytest.mark.e2e  # processes by the dozen

_NOT_PASSED_ON = ("PREFECT_", "RESTYLE_", "WAVESPEED_", "AWS_")
_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass
class World:
    """The emulator and an output; commands see a Prefect that cannot be reached."""

    emulator: Emulator
    store: Store
    env: dict[str, str]

    async def done(self, variant: int = 0, image: Path = PHOTO, **more: Any) -> Restyled:
        return await restyle(self.emulator.url, self.store, image, variant=variant, **more)

    async def failed(self, variant: int, code: int = 1200) -> PredictionFailedError:
        self.emulator.faults([{"on": "prediction", "fault": "failed", "code": code, "message": "not safe"}])
        with pytest.raises(PredictionFailedError) as failed:
            await self.done(variant)
        return failed.value

    async def submitted(self, variant: int) -> str:
        """Leave a job open; the prediction's id."""
        async with WaveSpeedClient("test-key", self.emulator.url, submit_timeout=1.5) as client:
            steps = StepSet(client, self.store, QUICK)
            job = await make_job(str(PHOTO), SMALL, variant, self.store)
            return (await steps.submit(job, run=settler.RUN)).prediction_id

    def restyle(self, *arguments: str) -> Ended:
        env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
        env |= {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PYTHONPATH": _ROOT, **self.env}
        return Command(["-m", "prefect_wavespeed", *arguments, "--out", self.store.uri], env).ended()

    def list(self, *options: str) -> list[dict[str, Any]]:
        ended = self.restyle("list", "--json", *options)
        assert (ended.status, ended.stderr) == (0, "")
        found: list[dict[str, Any]] = json.loads(ended.stdout)["jobs"]
        return found

    def show(self, what: str) -> dict[str, Any]:
        ended = self.restyle("show", what, "--json")
        assert (ended.status, ended.stderr) == (0, "")
        told: dict[str, Any] = json.loads(ended.stdout)
        return told


def on_directory(emulator: Emulator, folder: Path) -> World:
    return World(emulator, directory_store(folder / "out"), {})


def on_s3(emulator: Emulator, server: S3Server) -> World:
    store = s3_store(server.bucket, uuid4().hex, server.session(), endpoint_url=server.endpoint)
    return World(emulator, store, server.env)


@pytest.fixture
def world(emulator: Emulator, tmp_path: Path) -> World:
    return on_directory(emulator, tmp_path)


@pytest.fixture(params=["directory", pytest.param("moto", marks=pytest.mark.e2e)])
def any_world(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> World:
    if request.param == "directory":
        return on_directory(emulator, tmp_path)
    return on_s3(emulator, request.getfixturevalue("moto"))


# list


def test_every_job_is_a_line_with_time_status_source_key_and_what_became_of_it(any_world: World) -> None:
    done = asyncio.run(any_world.done(0))
    failed = asyncio.run(any_world.failed(1))
    opened = asyncio.run(any_world.submitted(2))
    ended = any_world.restyle("list")
    assert (ended.status, ended.stderr) == (0, "")
    rows = {status: rest for _, status, *rest in (line.split("\t") for line in ended.stdout.splitlines())}
    assert rows["done"] == [PHOTO.as_uri(), done.job_key, "0.0250 USD"]
    assert rows["failed"] == [PHOTO.as_uri(), failed.job_key, failed.message]
    assert rows["open"][2] == f"attempt 1 is submitted: prediction {opened}"
    assert {len(row) for row in rows.values()} == {3}


def test_one_status_and_a_day_narrow_the_list(any_world: World) -> None:
    done = asyncio.run(any_world.done(0))
    failed = asyncio.run(any_world.failed(1))
    asyncio.run(any_world.submitted(2))
    assert [job["job_key"] for job in any_world.list("--status", "done")] == [done.job_key]
    (dead,) = any_world.list("--status", "failed", "--since", "1d")
    assert (dead["job_key"], dead["reason"]) == (failed.job_key, failed.message)
    assert [job["status"] for job in any_world.list("--status", "open")] == ["open"]
    assert len(any_world.list("--since", "7d")) == 3


def test_what_was_stored_earlier_is_left_out(world: World) -> None:
    asyncio.run(world.done(0))
    for path in Path(world.store.uri).rglob("metadata.json"):
        then = (datetime.now(UTC) - timedelta(days=3)).timestamp()
        os.utime(path, (then, then))
    assert world.list("--since", "1d") == []
    assert len(world.list("--since", "4d")) == 1


def test_nothing_there_is_an_empty_list(world: World) -> None:
    ended = world.restyle("list")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "no such jobs\n")
    assert world.list() == []


async def test_the_newest_come_first(world: World) -> None:
    keys = [(await world.done(variant)).job_key for variant in range(3)]
    assert [facts.key async for facts in jobs(world.store)] == keys[::-1]


async def test_more_jobs_than_are_sorted_are_all_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsing, "MAX_SORTED", 2)
    keys = {(await world.done(variant)).job_key for variant in range(5)}
    assert {facts.key async for facts in jobs(world.store)} == keys


async def test_a_job_is_told_once_though_it_is_open_and_done(world: World) -> None:
    await world.submitted(0)
    left = {e.path: await world.store.get(e.path) or b"" for e in await world.store.list("open/")}
    done = await world.done(0)
    for path, data in left.items():
        await world.store.create(path, data)
    (only,) = [facts async for facts in jobs(world.store)]
    assert (only.status, only.key) == ("done", done.job_key)
    assert [facts async for facts in jobs(world.store, "open")] == []


async def test_a_failed_job_that_was_taken_up_again_is_open(world: World) -> None:
    failed = await world.failed(0)
    async with WaveSpeedClient("test-key", world.emulator.url, submit_timeout=1.5) as client:
        job = await make_job(str(PHOTO), SMALL, 0, world.store)
        await StepSet(client, world.store, QUICK).submit(job, run=settler.RUN, retry_failed=True)
    (only,) = [facts async for facts in jobs(world.store)]
    assert (only.status, only.key) == ("open", failed.job_key)
    assert len(only.prediction_ids) == 2
    assert [facts async for facts in jobs(world.store, "failed")] == []


async def test_a_side_car_of_another_version_is_told_and_stops_nothing(world: World) -> None:
    await world.done(0)
    await world.done(1)
    path = next(Path(world.store.uri).glob("images/*/metadata.json"))
    path.write_text('{"schema": 2}')
    found = [facts async for facts in jobs(world.store)]
    assert sorted(facts.unreadable for facts in found) == [False, True]


def test_whoever_reads_only_the_first_lines_gets_no_error(world: World) -> None:
    done = asyncio.run(world.done())
    (side_car,) = Path(world.store.uri).glob("images/*/metadata.json")
    for number in range(500):  # more than a pipe holds
        key = f"{number:064x}"[::-1]
        folder = side_car.parent.parent / f"copy-{key[:16]}"
        folder.mkdir()
        (folder / "metadata.json").write_text(side_car.read_text().replace(done.job_key, key))
    listing = f"{sys.executable} -m prefect_wavespeed list --out {world.store.uri}"
    command = f"{listing} | head -1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": _ROOT}
    ended = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=True)
    line, status = ended.stdout.splitlines()
    assert (line.split("\t")[1], status, ended.stderr) == ("done", "0", "")


def test_a_terminal_gets_colours_and_lines_that_fit(world: World) -> None:
    asyncio.run(world.done(0))
    asyncio.run(world.failed(1))
    shown = on_terminal(
        [sys.executable, "-m", "prefect_wavespeed", "list", "--out", world.store.uri],
        columns=80,
    )
    assert "\x1b[31m  failed" in shown
    lines = [line for line in plain(shown).splitlines() if "astronaut.jpg" in line]
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80


# show


def test_the_story_of_a_job_that_is_done(any_world: World) -> None:
    two = SMALL.model_copy(update={"num_images": 2})
    done = asyncio.run(any_world.done(params=two, run_id="the-run"))
    told = any_world.show(done.job_key[:8])
    assert (told["job_key"], told["status"], told["source"]) == (done.job_key, "done", PHOTO.as_uri())
    assert (told["request"]["seed"], told["usd"], told["run"]["flow_run_id"]) == (done.seed, 0.05, "the-run")
    assert told["prediction"]["id"] == done.prediction_id
    assert [attempt["prediction_id"] for attempt in told["attempts"]] == [done.prediction_id]
    pictures = {output.uri: output.bytes for output in done.outputs}
    assert {file["uri"]: file["bytes"] for file in told["files"] if file["width"]} == pictures
    assert done.metadata_uri in [file["uri"] for file in told["files"]]

    lines = any_world.restyle("show", done.job_key).stdout
    assert f"seed {done.seed}" in lines
    assert "0.0500 USD, quoted" in lines
    assert "flow run the-run" in lines
    assert "next        nothing" in lines


@pytest.mark.parametrize("what", ["key", "prediction", "source", "end", "file URI"])
def test_a_job_is_found_by_whatever_names_it(any_world: World, what: str) -> None:
    done = asyncio.run(any_world.done())
    names = {
        "key": done.job_key,
        "prediction": done.prediction_id,
        "source": str(PHOTO),
        "end": PHOTO.name,
        "file URI": PHOTO.as_uri(),
    }
    assert any_world.show(names[what])["job_key"] == done.job_key


def test_the_story_of_a_job_that_failed_says_why_and_what_next(any_world: World) -> None:
    failed = asyncio.run(any_world.failed(1))
    told = any_world.show(failed.prediction_id or "")
    assert (told["status"], told["reason"]) == ("failed", failed.message)
    assert "another picture" in told["next"]
    assert told["where"] == any_world.store.uri_of(f"failed/{failed.job_key}.json")


def test_the_story_of_a_job_that_is_open_needs_no_prefect(any_world: World) -> None:
    opened = asyncio.run(any_world.submitted(0))
    told = any_world.show(opened)
    assert (told["status"], told["prediction"]) == ("open", {"id": opened, "status": None})
    assert f"`restyle settle --out {any_world.store.uri}`" in told["next"]


@pytest.mark.e2e
def test_where_wavespeed_can_be_asked_it_tells_how_an_open_job_stands(
    world: World, prefect: PrefectServer
) -> None:
    opened = asyncio.run(world.submitted(0))
    world.env = {
        "PREFECT_API_URL": prefect.url,
        "WAVESPEED_API_KEY": "some-key",
        "WAVESPEED_BASE_URL": world.emulator.url,
    }
    told = world.show(opened)
    assert (told["status"], told["prediction"]) == ("open", {"id": opened, "status": "completed"})
    assert "its pictures are ready" in told["next"]
    assert world.emulator.ledger()["calls"]["submit"] == 1


async def test_a_claim_is_its_runners_while_it_is_young(world: World, tmp_path: Path) -> None:
    world.emulator.faults([{"on": "submit", "fault": "hang_before"}])
    async with WaveSpeedClient("test-key", world.emulator.url, submit_timeout=1.5) as client:
        job = await make_job(str(PHOTO), SMALL, 0, world.store)
        hanging = asyncio.ensure_future(StepSet(client, world.store, QUICK).submit(job, run=settler.RUN))
        while not await world.store.list("open/"):
            await asyncio.sleep(0.05)
        hanging.cancel()
    told = await asyncio.to_thread(world.show, job.key)
    assert "wait" in told["next"]
    for path in Path(world.store.uri).glob("open/*/*"):
        os.utime(path, (0, 0))
    told = await asyncio.to_thread(world.show, job.key)
    assert "its runner is gone" in told["next"]


def test_a_picture_that_is_gone_is_told(world: World) -> None:
    done = asyncio.run(world.done())
    Path(done.outputs[0].uri or "").unlink()
    (gone,) = [file for file in world.show(done.job_key)["files"] if file["bytes"] is None]
    assert gone["uri"] == done.outputs[0].uri
    assert "MISSING" in world.restyle("show", done.job_key).stdout


def test_several_jobs_that_may_be_meant_are_listed(any_world: World) -> None:
    keys = {asyncio.run(any_world.done(variant)).job_key for variant in range(3)}
    ended = any_world.restyle("show", PHOTO.name)
    assert ended.status == 1
    assert {line.split("\t")[3] for line in ended.stdout.splitlines()} == keys
    assert ended.stderr.count("\n") == 1
    assert "matches 3 jobs: give the key of one" in ended.stderr
    as_json = any_world.restyle("show", PHOTO.name, "--json")
    assert as_json.status == 1
    assert "matches 3 jobs" in json.loads(as_json.stdout)["error"]["message"]


@pytest.mark.parametrize("what", ["nothing.jpg", "0123456789abcdef", "s3://bucket/nothing.jpg"])
def test_nothing_found_is_one_line(any_world: World, what: str) -> None:
    ended = any_world.restyle("show", what)
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: {what}: no such job in {any_world.store.uri}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "--out", "nowhere/at/all"], "no such directory"),
        (["show", "x", "--out", "nowhere/at/all"], "no such directory"),
        (["list", "--out", ".", "--status", "lost"], "--status"),
        (["list", "--out", ".", "--since", "1w"], "--since 1w"),
        (["show", " ", "--out", "."], "the job is empty"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str) -> None:
    env = {**os.environ, "PYTHONPATH": _ROOT}
    ended = Command(["-m", "prefect_wavespeed", *arguments], env).ended()
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert says in ended.stderr


async def test_a_source_is_found_without_listing_all_folders(emulator: Emulator, moto: S3Server) -> None:
    world = on_s3(emulator, moto)
    done = await world.done()
    prefix = world.store.uri.removeprefix(f"s3://{moto.bucket}/")
    client = moto.client()
    for number in range(300):
        key = f"{prefix}/images/zebra-{number:016x}/metadata.json"
        client.put_object(Bucket=moto.bucket, Key=key, Body=b"{}")
    with proxy(moto) as (way, seen):
        store = s3_store(seen.bucket, prefix, seen.session(), endpoint_url=seen.endpoint)
        way.page = 50
        (facts,) = await find(store, PHOTO.name)
        assert facts.key == done.job_key
        assert way.request_lines.count("GET /restyle") <= 4
        assert [request for request in way.request_lines if "zebra" in request] == []


async def test_a_source_is_found_by_another_name_than_its_folder_has(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy of it.jpg"
    copy.write_bytes(PHOTO.read_bytes())
    first = await world.done()
    second = await world.done(1, copy)
    found = await find(world.store, str(copy))
    assert [facts.key for facts in found] == [second.job_key]
    assert "astronaut" in second.metadata_uri
    assert [facts.key for facts in await find(world.store, str(PHOTO))] == [first.job_key]


async def test_a_url_is_found_with_and_without_its_signature(world: World) -> None:
    async with WaveSpeedClient("test-key", world.emulator.url) as client:
        url = await client.upload("picture.jpg", PHOTO.read_bytes(), "image/jpeg")
    done = await restyle(world.emulator.url, world.store, f"{url}?X-Amz-Signature=one")
    for what in (url, f"{url}?X-Amz-Signature=two", url.partition("//")[2].partition("/")[2]):
        found: list[JobView] = await find(world.store, what)
        assert [facts.key for facts in found] == [done.job_key]


def test_every_way_to_fail_has_its_advice() -> None:
    url = "https://example.com/a.jpg"
    codes = {
        (code, source): after_failure(Failure(type="PredictionFailed", message="", code=code), "out", source)
        for code, source in ((1200, url), (1402, url), (1402, "file:///a.jpg"), (5000, url))
    }
    types = {
        kind: after_failure(Failure(type=kind, message=""), "out", url)
        for kind in ("SourceError", "PredictionLost", "AttemptsUsedUp", "NeverSubmitted")
    }
    assert len({*codes.values(), *types.values()}) == 8
    assert "--retry-failed" in after_failure(Failure(type="Unheard", message=""), "out", url)
