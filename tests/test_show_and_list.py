"""Finding and listing the jobs of an output; `restyle show` and `restyle list`.

What they print is tested in test_views.py, what they advise in test_advice.py.
"""

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
from prefect_wavespeed.inspect import jobs as jobs_module
from prefect_wavespeed.inspect.jobs import find, jobs
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support import settler
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL, restyle
from tests.support.in_process import restyle as run_command
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended
from tests.support.records import dead_letter, folder_of, key_of, put, record, side_car
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass
class Output:
    """An output, and the environment in which commands can open it."""

    store: Store
    env: dict[str, str]

    def run(self, *arguments: str) -> Ended:
        return run_command(*arguments, "--out", self.store.uri, env=self.env)

    def list(self, *options: str) -> list[dict[str, Any]]:
        ended = self.run("list", "--json", *options)
        assert (ended.status, ended.stderr) == (0, "")
        found: list[dict[str, Any]] = json.loads(ended.stdout)["jobs"]
        return found

    def show(self, what: str) -> dict[str, Any]:
        ended = self.run("show", what, "--json")
        assert (ended.status, ended.stderr) == (0, "")
        story: dict[str, Any] = json.loads(ended.stdout)
        return story


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(directory_store(tmp_path / "out"), {})


@pytest.fixture(params=["directory", "moto"])
def any_output(request: pytest.FixtureRequest, output: Output) -> Output:
    if request.param == "directory":
        return output
    server: S3Server = request.getfixturevalue("moto")
    store = s3_store(server.bucket, uuid4().hex, server.session(), endpoint_url=server.endpoint)
    return Output(store, server.env)


def fill(output: Output, *objects: Any, attempt: int = 1) -> None:
    asyncio.run(put(output.store, *objects, attempt=attempt))


# --- list ---


def test_every_job_is_listed_with_its_outcome(any_output: Output) -> None:
    fill(any_output, side_car("p-1"), dead_letter("p-2", message="not safe"), record("p-3"))
    ended = any_output.run("list")
    assert (ended.status, ended.stderr) == (0, "")
    rows = {status: rest for _, status, *rest in (line.split("\t") for line in ended.stdout.splitlines())}
    assert rows == {
        "done": ["file:///photos/coffee.jpg", key_of("p-1"), "0.0250 USD"],
        "failed": ["file:///photos/coffee.jpg", key_of("p-2"), "not safe"],
        "open": ["", key_of("p-3"), "attempt 1 is submitted, and its pictures are not stored yet"],
    }


def test_a_name_is_shown_as_it_is_written(output: Output) -> None:
    fill(output, side_car("p", source="file:///photos/caf%C3%A9%20noir.jpg"))
    assert "file:///photos/café noir.jpg" in output.run("list").stdout
    assert "file:///photos/café noir.jpg" in output.run("show", "café noir").stdout
    assert output.show("café noir")["source"] == "file:///photos/caf%C3%A9%20noir.jpg"


def test_a_status_and_a_day_narrow_the_list(output: Output) -> None:
    last_week = datetime.now(UTC) - timedelta(days=7)
    fill(output, side_car("new", stored=datetime.now(UTC)), side_car("old", stored=last_week))
    fill(output, dead_letter("dead"), record("open"))
    assert [job["status"] for job in output.list("--status", "open")] == ["open"]
    assert [job["job_key"] for job in output.list("--status", "failed")] == [key_of("dead")]
    recent = output.list("--status", "done", "--since", "1d")
    assert [job["job_key"] for job in recent] == [key_of("new")]
    assert len(output.list("--since", "2026-01-01")) == 4


def test_objects_written_before_the_day_are_not_even_read(output: Output) -> None:
    fill(output, side_car("p", stored=datetime.now(UTC)))
    three_days_ago = (datetime.now(UTC) - timedelta(days=3)).timestamp()
    for path in Path(output.store.uri).rglob("metadata.json"):
        os.utime(path, (three_days_ago, three_days_ago))
    assert output.list("--since", "1d") == []
    assert len(output.list("--since", "4d")) == 1


def test_an_empty_output_is_an_empty_list(output: Output) -> None:
    Path(output.store.uri).mkdir(exist_ok=True)
    ended = output.run("list")
    assert (ended.status, ended.stdout, ended.stderr) == (0, "", "no jobs match\n")
    assert output.list() == []


async def test_the_newest_job_comes_first(output: Output) -> None:
    for number, name in enumerate("abc"):
        metadata = side_car(name)
        await put(output.store, metadata)
        path = Path(output.store.uri) / layout.metadata(folder_of(metadata))
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    assert [job.key async for job in jobs(output.store)] == [key_of(name) for name in "cba"]


async def test_more_jobs_than_are_sorted_are_all_listed(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_SORTED", 2)
    await put(output.store, *(side_car(name) for name in "abcde"))
    assert {job.key async for job in jobs(output.store)} == {key_of(name) for name in "abcde"}


async def test_a_job_that_is_open_and_done_is_listed_once(output: Output) -> None:
    await put(output.store, record("p"), side_car("p"))
    (only,) = [job async for job in jobs(output.store)]
    assert (only.status, only.key) == ("done", key_of("p"))


async def test_a_failed_job_that_was_taken_up_again_is_open(output: Output) -> None:
    await put(output.store, dead_letter("p"))
    await put(output.store, record("p"), attempt=2)
    (only,) = [job async for job in jobs(output.store)]
    assert (only.status, only.key) == ("open", key_of("p"))
    assert [job async for job in jobs(output.store, "failed")] == []


async def test_a_side_car_of_another_version_is_listed_and_stops_nothing(output: Output) -> None:
    await put(output.store, side_car("p"))
    path = layout.metadata("other-0123456789abcdef")
    await output.store.put(path, b'{"schema": 2}', "application/json")
    assert sorted([job.unreadable async for job in jobs(output.store)]) == [False, True]


def test_a_reader_of_only_the_first_line_gets_no_error(output: Output) -> None:
    metadata = side_car("p")
    fill(output, metadata)
    text = metadata.model_dump_json()
    for number in range(500):  # more than a pipe holds
        key = f"{number:064x}"[::-1]
        folder = Path(output.store.uri) / "images" / f"copy-{key[:16]}"
        folder.mkdir()
        (folder / "metadata.json").write_text(text.replace(metadata.job_key, key))
    listing = f"{sys.executable} -m prefect_wavespeed list --out {output.store.uri}"
    command = f"{listing} | head -1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": _ROOT}
    ended = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=True)
    line, status = ended.stdout.splitlines()
    assert (line.split("\t")[1], status, ended.stderr) == ("done", "0", "")


# --- show ---


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(key_of("p"), id="key"),
        pytest.param(key_of("p")[:8], id="beginning of the key"),
        pytest.param("p", id="prediction"),
        pytest.param("/photos/coffee.jpg", id="path"),
        pytest.param("coffee.jpg", id="end of the source"),
        pytest.param("coffee", id="the file's name without its ending"),
        pytest.param("file:///photos/coffee.jpg", id="URI"),
    ],
)
@pytest.mark.parametrize("kind", ["done", "failed"])
def test_a_job_is_found_by_any_of_its_names(kind: str, wanted: str, output: Output) -> None:
    fill(output, side_car("p") if kind == "done" else dead_letter("p"), side_car("q", source="file:///b.png"))
    assert output.show(wanted)["job_key"] == key_of("p")


async def test_a_url_is_found_with_and_without_its_signature(output: Output) -> None:
    url = "https://example.com/a/picture.jpg"
    await put(output.store, side_car("p", source=url))
    for wanted in (url, f"{url}?X-Amz-Signature=two", "a/picture.jpg"):
        assert [job.key for job in await find(output.store, wanted)] == [key_of("p")]


async def test_a_source_is_found_though_its_folder_has_another_name(output: Output) -> None:
    copy = side_car("copy", source="file:///elsewhere/copy%20of%20it.jpg")
    path = layout.metadata(f"coffee-{copy.job_key[:16]}")
    await output.store.put(path, copy.model_dump_json().encode(), "application/json")
    assert [job.key for job in await find(output.store, "/elsewhere/copy of it.jpg")] == [key_of("copy")]


async def test_a_source_is_found_without_listing_all_folders(moto: S3Server) -> None:
    prefix = uuid4().hex
    await put(
        s3_store(moto.bucket, prefix, moto.session(), endpoint_url=moto.endpoint),
        side_car("p"),
        *(side_car(f"q-{number}", source="file:///zebra.jpg") for number in range(300)),
    )
    with proxy(moto) as (way, seen):
        way.page = 50
        store = s3_store(seen.bucket, prefix, seen.session(), endpoint_url=seen.endpoint)
        (job,) = await find(store, "coffee.jpg")
        assert job.key == key_of("p")
        assert way.request_lines.count("GET /restyle") <= 4
        assert [request for request in way.request_lines if "zebra" in request] == []


def test_a_missing_picture_is_shown(output: Output) -> None:
    metadata = side_car("p", pictures=2)
    fill(output, metadata)
    first, second = (output.key or "" for output in metadata.outputs)
    (Path(output.store.uri) / first).write_bytes(b"a picture")
    sizes = {file["uri"]: file["bytes"] for file in output.show("p")["files"]}
    assert (sizes[output.store.uri_of(first)], sizes[output.store.uri_of(second)]) == (9, None)
    assert "MISSING" in output.run("show", "p").stdout


def test_several_matching_jobs_are_listed(any_output: Output) -> None:
    fill(any_output, *(side_car(name) for name in "abc"))
    ended = any_output.run("show", "coffee.jpg")
    assert ended.status == 1
    assert {line.split("\t")[3] for line in ended.stdout.splitlines()} == {key_of(name) for name in "abc"}
    assert ended.stderr.count("\n") == 1
    assert "matches 3 jobs: give the key of one" in ended.stderr
    as_json = any_output.run("show", "coffee.jpg", "--json")
    assert as_json.status == 1
    assert "matches 3 jobs" in json.loads(as_json.stdout)["error"]["message"]


@pytest.mark.parametrize("wanted", ["nothing.jpg", "0123456789abcdef", "s3://bucket/nothing.jpg"])
def test_no_match_is_one_line(any_output: Output, wanted: str) -> None:
    fill(any_output, side_car("p"))
    ended = any_output.run("show", wanted)
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: {wanted}: no such job in {any_output.store.uri}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "--out", "nowhere/at/all"], "no such directory"),
        (["show", "x", "--out", "nowhere/at/all"], "no such directory"),
        (["list", "--out", ".", "--status", "lost"], "--status"),
        (["list", "--out", ".", "--since", "1w"], "--since 1w"),
        (["show", " ", "--out", "."], "the job is empty"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], expected: str) -> None:
    ended = run_command(*arguments)
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert expected in ended.stderr


# --- real jobs ---


async def submit(emulator: Emulator, store: Store, variant: int) -> str:
    """Leave a job open, and return its prediction's id."""
    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=1.5) as client:
        job = await make_job(str(PHOTO), SMALL, variant, store)
        return (await StepSet(client, store, QUICK).submit(job, run=settler.RUN)).prediction_id


@pytest.mark.e2e
def test_real_jobs_are_listed_and_shown_by_processes_without_prefect(
    emulator: Emulator, moto: S3Server
) -> None:
    store = s3_store(moto.bucket, uuid4().hex, moto.session(), endpoint_url=moto.endpoint)
    two = SMALL.model_copy(update={"num_images": 2})
    restyled = asyncio.run(restyle(emulator.url, store, params=two, run_id="the-run"))
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "not safe"}])
    with pytest.raises(PredictionFailedError) as failed:
        asyncio.run(restyle(emulator.url, store, variant=1))
    opened = asyncio.run(submit(emulator, store, 2))

    def run(*arguments: str) -> str:
        env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PYTHONPATH": _ROOT}
        command = ["-m", "prefect_wavespeed", *arguments, "--out", store.uri]
        ended = Command(command, {**env, **moto.env}).ended()
        assert (ended.status, ended.stderr) == (0, "")
        return ended.stdout

    rows = {status: rest for _, status, *rest in (line.split("\t") for line in run("list").splitlines())}
    assert rows["done"] == [PHOTO.as_uri(), restyled.job_key, "0.0500 USD"]
    assert rows["failed"] == [PHOTO.as_uri(), failed.value.job_key, failed.value.message]
    assert rows["open"][2] == "attempt 1 is submitted, and its pictures are not stored yet"

    done = json.loads(run("show", restyled.job_key[:8], "--json"))
    assert (done["request"]["seed"], done["usd"], done["run"]["flow_run_id"]) == (
        restyled.seed,
        0.05,
        "the-run",
    )
    assert [attempt["prediction_id"] for attempt in done["attempts"]] == [restyled.prediction_id]
    pictures = {output.uri: output.bytes for output in restyled.outputs}
    assert {file["uri"]: file["bytes"] for file in done["files"] if file["width"]} == pictures
    assert restyled.metadata_uri in [file["uri"] for file in done["files"]]
    dead = json.loads(run("show", failed.value.prediction_id or "", "--json"))
    assert dead["where"] == store.uri_of(layout.dead_letter(failed.value.job_key or ""))
    still_open = json.loads(run("show", opened, "--json"))
    assert (still_open["status"], still_open["prediction"]) == ("open", {"id": opened, "status": None})
    assert f"`restyle settle --out {store.uri}`" in still_open["next"]


@pytest.mark.e2e
def test_an_open_job_is_shown_with_what_wavespeed_reports(
    emulator: Emulator, prefect: PrefectServer, output: Output
) -> None:
    opened = asyncio.run(submit(emulator, output.store, 0))
    env = {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": emulator.url}
    command = ("show", opened, "--out", output.store.uri, "--json")
    story = json.loads(run_command(*command, prefect=prefect, env=env).stdout)
    assert story["status"] == "open"
    assert story["prediction"]["id"] == opened
    assert story["prediction"]["status"] in ("created", "processing", "completed")
    assert emulator.ledger()["calls"]["submit"] == 1
