"""The flow `restyle_image` on a real Prefect server, against the emulator."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from PIL import Image
from prefect import flow, unmapped
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.filesystems import LocalFileSystem
from prefect.states import Cancelled, Crashed
from pydantic import SecretStr

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import (
    AuthenticationError,
    ConfigurationError,
    OutputMissingError,
    PredictionFailedError,
    PredictionTimeoutError,
    RestyleError,
    SourceError,
    StoreError,
    UnavailableError,
    worth_retrying,
)
from prefect_wavespeed.flows import arestyle_image, restyle_batch, restyle_image
from prefect_wavespeed.job import Job, Restyled, RunInfo
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.tasks import arestyle, restyle
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until

KEY = "key-that-nobody-may-see"
SMALL = ReduxParams(size="256*256")


@dataclass
class World:
    """A Prefect server, the emulator and an empty output directory, and the flow run with them."""

    prefect: PrefectServer
    emulator: Emulator
    output: Path

    def restyle(self, image: str | Path = PHOTO, flow: Any = restyle_image, **parameters: Any) -> Restyled:
        """Run the flow."""
        arguments = {"params": SMALL, "output": str(self.output), **parameters}
        with self.prefect.used_here():
            restyled: Restyled = flow(str(image), **arguments)
        return restyled

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The flow runs of this test."""
        runs = self.prefect.all("flow_runs", sort="EXPECTED_START_TIME_DESC")
        return [run for run in runs if run["parameters"].get("output") == str(self.output)]

    def task_runs(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """The task runs of the last flow run by their task's name, once all of ``names`` have ended."""
        run = self.runs[0]["id"]
        found: dict[str, dict[str, Any]] = {}

        def ended() -> bool:
            tasks = self.prefect.all("task_runs", flow_runs={"id": {"any_": [run]}})
            found.update({task["name"].split()[0]: task for task in tasks})
            return {n for n, t in found.items() if t["state_type"] in ("COMPLETED", "FAILED")} >= names

        wait_until(ended)
        return found

    def artifact(self) -> str:
        """The text of the last run's artifact."""
        (artifact,) = self.prefect.all("artifacts", flow_runs={"id": {"any_": [self.runs[0]["id"]]}})
        return str(artifact["data"])

    def events(self, job_key: str, kinds: set[str]) -> list[dict[str, Any]]:
        """The job's events, once there is one of each of these kinds."""
        mine: list[dict[str, Any]] = []

        def complete() -> bool:
            mine[:] = [
                event
                for event in self.prefect.events("wavespeed.job.")
                if event["resource"]["prefect.resource.id"] == f"wavespeed.job.{job_key}"
            ]
            return {event["event"].rpartition(".")[2] for event in mine} >= kinds

        wait_until(complete)
        return mine


@pytest.fixture
def world(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setenv("WAVESPEED_API_KEY", KEY)
    monkeypatch.setenv("WAVESPEED_BASE_URL", emulator.url)
    yield World(prefect, emulator, tmp_path / "out")
    shutil.rmtree(tmp_path)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture that no other test uses, and so a job of its own."""
    path = tmp_path / "Own Photo.png"
    Image.frombytes("RGB", (64, 64), (str(tmp_path) * 12288)[:12288].encode()).save(path)
    return path


def test_an_image_is_restyled_and_the_run_shows_the_outcome(world: World, photo: Path) -> None:
    restyled = world.restyle(photo, params=ReduxParams(size="256*320", num_images=2, output_format="png"))
    assert world.emulator.ledger()["billed"] == 1
    assert [(o.width, o.height, o.content_type) for o in restyled.outputs] == [(256, 320, "image/png")] * 2
    (run,) = world.runs
    assert run["name"] == "restyle Own Photo.png"
    assert run["state_type"] == "COMPLETED"

    tasks = world.task_runs({"submit", "poll", "download"})
    label = f"own-photo-{restyled.job_key[:4]}"
    assert {task["name"] for task in tasks.values()} == {
        f"{n} {label}" for n in ("submit", "poll", "download")
    }
    side_car = json.loads(Path(restyled.metadata_uri).read_text())
    assert side_car["run"]["flow_run_id"] == run["id"]
    assert set(side_car["run"]["task_run_ids"]) == {task["id"] for task in tasks.values()}

    page = world.artifact()
    assert len(page) < 100_000
    assert "| source | output 1 | output 2 |" in page
    assert "\n2 pictures for 0.05 USD.\n" in page
    assert page.count("](data:image/jpeg;base64,") == 3
    for fact in (restyled.prediction_id, str(restyled.seed), "0.05 USD", str(restyled.outputs[1].sha256)):
        assert fact in page


def test_the_thumbnails_are_pictures(world: World, photo: Path) -> None:
    world.restyle(photo)
    for data in re.findall(r"base64,([^)]*)\)", world.artifact()):
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 280


def test_a_job_has_one_event_of_each_kind(world: World, photo: Path) -> None:
    restyled = world.restyle(photo)
    world.restyle(photo)
    submitted, stored = sorted(
        world.events(restyled.job_key, {"submitted", "stored"}), key=lambda e: str(e["occurred"])
    )
    assert submitted["payload"]["prediction_id"] == restyled.prediction_id
    assert stored["payload"]["outputs"] == [restyled.outputs[0].uri]
    related = {related["prefect.resource.id"].rpartition(".")[0] for related in stored["related"]}
    assert "prefect.flow-run" in related


def test_running_a_done_job_again_makes_no_call(world: World, photo: Path) -> None:
    first = world.restyle(photo)
    calls = world.emulator.ledger()["calls"]
    second = world.restyle(photo)
    assert world.emulator.ledger()["calls"] == calls
    assert (second.cached, second.cost_usd, second.outputs) == (True, 0, first.outputs)
    assert "stored by an earlier run" in world.artifact()


def test_a_task_is_retried_after_a_transient_error(world: World, photo: Path) -> None:
    world.emulator.faults([{"on": "upload", "fault": "status", "status": 503}])
    world.restyle(photo)
    assert world.task_runs({"submit", "download"})["submit"]["run_count"] == 2
    assert world.emulator.ledger()["billed"] == 1


def test_an_output_that_was_used_and_is_gone_is_refused_until_its_disk_is_back(
    world: World, photo: Path, tmp_path: Path
) -> None:
    """As with a disk that is not mounted: its mount point is an empty directory."""
    first = world.restyle(photo)
    elsewhere, calls = tmp_path / "elsewhere", world.emulator.ledger()["calls"]
    world.output.rename(elsewhere)
    for is_there in (False, True):
        if is_there:
            world.output.mkdir()
        with pytest.raises(OutputMissingError, match="its disk may not be mounted") as refused:
            world.restyle(photo)
    with pytest.raises(OutputMissingError), world.prefect.used_here():
        restyle_batch([str(photo)], output=str(world.output), dry_run=True)
    assert world.emulator.ledger()["calls"] == calls
    assert not world.output.exists() or not any(world.output.iterdir())

    world.output.rmdir()
    elsewhere.rename(world.output)
    shutil.rmtree(world.output / "uploads")
    assert world.restyle(photo.rename(photo.with_name("renamed.png"))).metadata_uri == first.metadata_uri
    (world.output / ".restyle-output").unlink()
    with pytest.raises(OutputMissingError):
        world.restyle(tmp_path / "renamed.png")
    subprocess.run(refused.value.message.partition("on purpose: ")[2], shell=True, check=True)
    assert world.restyle(tmp_path / "renamed.png").cached


def test_a_permanent_error_ends_the_run_at_once(world: World, photo: Path) -> None:
    world.emulator.faults([{"on": "submit", "fault": "refused", "status": 401, "times": None}])
    started = time.monotonic()
    with pytest.raises(AuthenticationError):
        world.restyle(photo)
    assert time.monotonic() - started < 30  # the flow's own delay
    (run,) = world.runs
    assert (run["state_type"], run["run_count"]) == ("FAILED", 1)
    assert world.emulator.ledger()["calls"]["submit"] == 1
    assert world.task_runs({"submit"})["submit"]["run_count"] == 1


def test_a_failed_prediction_ends_the_run_and_emits_one_event(world: World, photo: Path) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "unsafe"}])
    for _ in range(2):
        with pytest.raises(PredictionFailedError) as failed:
            world.restyle(photo)
    assert failed.value.job_key
    events = world.events(failed.value.job_key, {"failed"})
    assert [e["payload"]["code"] for e in events if e["event"].endswith("failed")] == [1200]
    assert [run["run_count"] for run in world.runs] == [1, 1]
    assert world.emulator.ledger()["calls"]["submit"] == 1


def test_the_flow_is_retried_only_after_a_transient_error(
    world: World, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[RestyleError] = [StoreError("transient"), SourceError("permanent")]

    async def failing(*_: object) -> Job:
        raise errors.pop(0)

    monkeypatch.setitem(restyle_image.fn.__globals__, "make_job", failing)
    with pytest.raises(SourceError, match="permanent"):
        world.restyle(photo, flow=restyle_image.with_options(retry_delay_seconds=0))
    assert errors == []
    assert world.runs[0]["run_count"] == 2


def test_sync_code_gets_the_result_async_code_awaits_it_and_a_list_is_mapped(
    world: World, photo: Path
) -> None:
    block = WaveSpeed(api_key=Secret(value=SecretStr(KEY)), base_url=world.emulator.url, max_in_flight=1)
    given: dict[str, Any] = {
        "params": SMALL,
        "wavespeed": block,
        "output": LocalFileSystem(basepath=str(world.output)),
    }
    mapped: dict[str, Any] = {name: unmapped(value) for name, value in given.items()}

    @flow
    def in_sync() -> list[Restyled]:
        return [
            restyle_image(str(photo), **given),
            restyle(str(photo), **given),
            *restyle.map([str(photo)] * 2, **mapped).result(),
        ]

    @flow
    async def in_async() -> list[Restyled]:
        return [
            await restyle_image(str(photo), **given),
            await restyle(str(photo), **given),
            await arestyle_image(str(photo), **given),
            await arestyle(str(photo), **given),
        ]

    with world.prefect.used_here():
        restyled = [*in_sync(), *asyncio.run(in_async()), restyle_image(str(photo), **given)]
        names = [task["name"] for task in world.prefect.all("task_runs") if task["name"].endswith(".png")]
        stored = json.dumps([world.prefect.all("flow_runs"), world.prefect.all("task_runs")])
    assert {one.metadata_uri for one in restyled} == {restyled[0].metadata_uri}
    assert [one.cached for one in restyled] == [False] + [True] * 8
    assert world.emulator.ledger()["billed"] == 1
    assert set(names) == {"restyle Own Photo.png"}
    assert KEY not in stored
    assert all(one._repr_html_().count('<img alt="Output 1" ') == 1 for one in restyled)


def test_a_corrected_block_is_used_by_the_next_run_of_the_same_process(world: World, photo: Path) -> None:
    """As in a notebook, whose event loop lives on."""
    key: Secret[Any] = Secret(value=SecretStr(KEY))
    wrong = WaveSpeed(api_key=key, base_url=world.emulator.url, concurrency_limit="nobody-made-it")
    corrected = wrong.model_copy(update={"concurrency_limit": None})

    async def notebook() -> Restyled:
        options: dict[str, Any] = {"params": SMALL, "output": str(world.output), "wavespeed": "corrected"}
        await key.asave("corrected-key")
        await wrong.asave("corrected")
        with pytest.raises(ConfigurationError, match="nobody-made-it"):
            await restyle_image(str(photo), **options)
        assert world.emulator.ledger()["calls"]["submit"] == 0
        await corrected.asave("corrected", overwrite=True)
        restyled: Restyled = await restyle_image(str(photo), **options)
        return restyled

    with world.prefect.used_here():
        assert asyncio.run(notebook()).outputs


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (UnavailableError("later"), True),
        (PredictionTimeoutError("waited for 15 minutes already"), False),
        (SourceError("no such file"), False),
        (RuntimeError("a defect"), False),
        (None, False),
    ],
)
def test_only_transient_errors_are_worth_retrying(error: object, worth: bool) -> None:
    assert worth_retrying(error) is worth


def test_a_source_url_is_shown_without_its_signature_and_not_fetched(world: World, photo: Path) -> None:
    signed = f"{upload(world, photo)}?X-Amz-Signature=not-for-show"
    calls = world.emulator.ledger()["calls"].get("cdn", 0)
    restyled = world.restyle(signed)
    fetched = world.emulator.ledger()["calls"]["cdn"] - calls
    assert fetched == len(restyled.outputs)
    page = world.artifact()
    assert "| output 1 |" in page
    assert "source |" not in page
    shown = [
        page,
        world.runs[0]["name"],
        world.events(restyled.job_key, {"stored"}),
        restyled.model_dump_json(),
    ]
    assert "not-for-show" not in str(shown)


def test_flagged_pictures_are_not_shown(world: World, photo: Path) -> None:
    world.emulator.faults([{"on": "prediction", "fault": "nsfw"}])
    restyled = world.restyle(photo, nsfw="quarantine")
    assert "/quarantine/" in str(restyled.outputs[0].uri)
    page = world.artifact()
    assert page.count("data:image") == 1
    assert "flagged, not shown" in page
    assert "<img" not in restyled._repr_html_()


def test_an_error_in_creating_the_artifact_does_not_fail_the_run(
    world: World, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise OSError("no disk")

    monkeypatch.setattr("prefect_wavespeed.flows._artifacts.acreate_markdown_artifact", broken)
    assert world.restyle(photo).outputs


def test_the_key_is_stored_nowhere(world: World, photo: Path, tmp_path: Path) -> None:
    restyled = world.restyle(photo)
    world.emulator.faults([{"on": "submit", "fault": "refused", "status": 402, "times": None}])
    with pytest.raises(RestyleError):
        world.restyle(photo, variant=1)
    world.events(restyled.job_key, {"submitted", "stored"})
    wait_until(lambda: len(world.prefect.all("logs")) > 0)
    kept = [file for folder in (world.prefect.home, tmp_path) for file in folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".db" for file in kept)
    assert [file for file in kept if KEY.encode() in file.read_bytes()] == []


def test_an_interrupted_run_reports_the_status_of_its_job(world: World, photo: Path) -> None:
    """The hook reads only the ledger, so it works in a process that did not run the flow."""

    async def interrupted() -> tuple[str, UUID]:
        store = open_store(str(world.output))
        job = await make_job(str(photo), SMALL, 0, store)
        async with WaveSpeedClient(KEY, world.emulator.url) as client:
            submitted = await StepSet(client, store).submit(job, run=RunInfo(package_version="test"))
        return submitted.prediction_id, await hook_after(Cancelled(), photo, world.output)

    with world.prefect.used_here():
        prediction_id, run = asyncio.run(interrupted())
    (artifact,) = world.prefect.all("artifacts", flow_runs={"id": {"any_": [str(run)]}})
    submitted = f"Attempt 1 is submitted and running at WaveSpeedAI: prediction {prediction_id}."
    assert submitted in artifact["data"]
    assert "nothing is billed twice" in artifact["data"]
    again = world.restyle(photo)
    assert (again.prediction_id, again.cached) == (prediction_id, False)


def test_a_run_that_is_interrupted_before_it_submits_reports_that(world: World, photo: Path) -> None:
    with world.prefect.used_here():
        run = asyncio.run(hook_after(Crashed(), photo, world.output))
    (artifact,) = world.prefect.all("artifacts", flow_runs={"id": {"any_": [str(run)]}})
    assert "Nothing was submitted and nothing is billed" in artifact["data"]


def test_the_hook_raises_nothing(world: World) -> None:
    with world.prefect.used_here():
        asyncio.run(hook_after(Crashed(), Path("gone.jpg"), world.output))


async def hook_after(state: Any, image: Path, output: Path) -> UUID:
    """Create a flow run and call the hook for it, as a worker does."""
    parameters = {"image": str(image), "params": SMALL.model_dump(), "output": str(output)}
    async with get_client() as client:
        run = await client.create_flow_run(restyle_image, parameters=parameters, state=state)
    (hook,) = restyle_image.on_cancellation_hooks
    await cast("Any", hook)(restyle_image, run, state)
    return run.id


def upload(world: World, photo: Path) -> str:
    """Upload the picture to the emulator, and return its URL."""

    async def send() -> str:
        async with WaveSpeedClient(KEY, world.emulator.url) as client:
            return await client.upload(photo.name, photo.read_bytes(), "image/png")

    return asyncio.run(send())
