"""The flow `restyle_object` on a real Prefect server, with the emulator and moto; and its lineage."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from prefect.assets import Asset
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow_async
from prefect.states import Crashed, Running

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.created_object import Handled, ObjectCreated
from prefect_wavespeed.deployments.prefect_runtime import flush
from prefect_wavespeed.errors import (
    ConfigurationError,
    PredictionFailedError,
    RunLimitError,
    SourceDeniedError,
    SourceError,
)
from prefect_wavespeed.flows import restyle_image, restyle_object
from prefect_wavespeed.flows.restyle_object import MAX_RUNS
from prefect_wavespeed.tasks.assets import asset_key
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.e2e  # a server, and flow runs one after the other

SMALL = ReduxParams(size="256*256")


@dataclass
class World:
    """A Prefect server, the emulator, a bucket with a watched prefix and an output beside it."""

    prefect: PrefectServer
    emulator: Emulator
    s3: S3Server
    folder: str

    @property
    def watched(self) -> str:
        return f"s3://{self.s3.bucket}/{self.folder}/in/"

    @property
    def output(self) -> str:
        return f"s3://{self.s3.bucket}/{self.folder}/out"

    def put(self, name: str, data: bytes) -> ObjectCreated:
        """Put an object into the watched prefix, and return its event as a store would send it."""
        key = f"{self.folder}/in/{name}"
        answer = self.s3.client().put_object(Bucket=self.s3.bucket, Key=key, Body=data)
        return ObjectCreated(bucket=self.s3.bucket, key=key, etag=answer["ETag"].strip('"'))

    def arguments(self, **more: Any) -> dict[str, Any]:
        return {"watched": self.watched, "params": SMALL, "output": self.output, **more}

    def deliver(self, created: ObjectCreated, **more: Any) -> Handled:
        """Run the flow, as a deployment would: the event is JSON."""
        event: Any = created.model_dump(mode="json")
        with self.prefect.used_here():
            handled: Handled = restyle_object(event, **self.arguments(**more))
        return handled

    def stored(self) -> list[str]:
        listing = self.s3.client().list_objects_v2(Bucket=self.s3.bucket, Prefix=f"{self.folder}/out/")
        return [entry["Key"].split("/", 2)[2] for entry in listing.get("Contents", [])]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The flow runs of this test, the newest first."""
        runs = self.prefect.all("flow_runs", sort="EXPECTED_START_TIME_DESC")
        return [run for run in runs if self.folder in str(run["parameters"])]

    def events(self, prefix: str, mark: str, count: int) -> list[dict[str, Any]]:
        """The events that contain ``mark``, once there are ``count`` of them."""
        mine: list[dict[str, Any]] = []
        with self.prefect.used_here():
            asyncio.run(flush())  # so that an event that is emitted twice has arrived twice

        def complete() -> bool:
            mine[:] = [event for event in self.prefect.events(prefix) if mark in str(event)]
            return len(mine) >= count

        wait_until(complete)
        return mine


@pytest.fixture
def world(
    prefect: PrefectServer, emulator: Emulator, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> World:
    monkeypatch.setenv("WAVESPEED_API_KEY", "key-that-nobody-may-see")
    monkeypatch.setenv("WAVESPEED_BASE_URL", emulator.url)
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    return World(prefect, emulator, moto, uuid.uuid4().hex)


def test_an_event_delivered_twice_is_one_job_with_one_lineage(
    world: World,
) -> None:
    created = world.put("a {photo}.jpg", PHOTO.read_bytes())
    first, second = world.deliver(created), world.deliver(created)
    assert first.restyled
    assert second.restyled
    assert (first.restyled.cached, second.restyled.cached) == (False, True)
    assert len(world.emulator.ledger()["predictions"]) == 1
    assert {run["name"] for run in world.runs} == {f"restyle {created.key}"}
    assert {run["state_type"] for run in world.runs} == {"COMPLETED"}

    events = world.events("prefect.asset.", world.folder, 2)
    assert sorted(event["event"] for event in events) == [
        "prefect.asset.materialization.succeeded",
        "prefect.asset.referenced",
    ]
    made, source = sorted(events, key=lambda event: event["event"])
    (output,) = first.restyled.outputs
    assert made["resource"]["prefect.resource.id"] == output.uri
    assert source["resource"]["prefect.resource.id"] == asset_key(created.uri) != created.uri
    related = {one["prefect.resource.role"]: one["prefect.resource.id"] for one in made["related"]}
    assert related["asset"] == source["resource"]["prefect.resource.id"]
    assert related["asset-materialized-by"] == "prefect-wavespeed"
    assert "task-run" in related or "flow-run" in related
    facts = made["payload"]
    assert facts["job_key"] == first.restyled.job_key
    assert facts["prediction_id"] == first.restyled.prediction_id
    assert facts["seed"] == first.restyled.seed
    assert facts["cost_usd"] == first.restyled.cost_usd
    assert (facts["sha256"], facts["width"], facts["height"]) == (output.sha256, 256, 256)
    assert facts["content_type"] == "image/jpeg"
    assert facts["source"] == created.uri


def test_an_object_that_is_no_image_fails_the_run_at_once_and_emits_one_event(world: World) -> None:
    created = world.put("text.jpg", b"not a picture")
    for _ in range(2):
        with pytest.raises(PredictionFailedError, match="not an image"):
            world.deliver(created)
    assert [run["state_type"] for run in world.runs] == ["FAILED"] * 2
    assert [run["run_count"] for run in world.runs] == [1, 1], "not retried"
    assert "not an image: image s3://" in world.runs[0]["state"]["message"]
    assert [key.partition("/")[0] for key in world.stored()] == ["failed"]
    assert len(world.events("wavespeed.job.failed", world.folder, 1)) == 1
    assert not world.emulator.ledger()["predictions"]


def test_an_ignored_event_completes_and_writes_nothing(world: World) -> None:
    handled = world.deliver(ObjectCreated(bucket=world.s3.bucket, key=f"{world.folder}/elsewhere/a.jpg"))
    assert handled.restyled is None
    assert "is not below" in (handled.ignored or "")
    assert world.runs[0]["state_type"] == "COMPLETED"
    assert not world.stored()


def test_an_output_that_overlaps_the_watched_prefix_is_refused(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())
    inside = f"{world.watched}out"
    with pytest.raises(ConfigurationError, match="choose an output beside it"):
        world.deliver(created, output=inside)
    assert not world.emulator.ledger()["predictions"]


@pytest.mark.parametrize(
    ("error", "run_count"),
    [(SourceError("the object has changed"), 3), (SourceDeniedError("these credentials may not"), 1)],
)
def test_the_flow_is_retried_if_the_object_has_changed_but_not_if_access_is_denied(
    world: World, monkeypatch: pytest.MonkeyPatch, error: SourceError, run_count: int
) -> None:
    async def failing(*_: object) -> None:
        raise error

    monkeypatch.setitem(restyle_object.fn.__globals__, "find", failing)
    created = ObjectCreated(bucket=world.s3.bucket, key=f"{world.folder}/in/a.jpg")
    flow = restyle_object.with_options(retry_delay_seconds=0)
    with world.prefect.used_here(), pytest.raises(SourceError):
        flow(created, **world.arguments())
    assert world.runs[0]["run_count"] == run_count


@pytest.mark.parametrize(
    ("env", "arguments", "reason"),
    [
        ({"WAVESPEED_BASE_URL": "http://api.example.com"}, {}, "base_url"),
        ({}, {"output": "local-file-system/never-saved"}, "no block local-file-system/never-saved is saved"),
    ],
    ids=["base_url", "output"],
)
def test_the_flow_is_not_retried_if_its_configuration_is_wrong(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    arguments: dict[str, str],
    reason: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    created = ObjectCreated(bucket=world.s3.bucket, key=f"{world.folder}/in/a.jpg")
    flow = restyle_object.with_options(retry_delay_seconds=0)
    with world.prefect.used_here(), pytest.raises(ConfigurationError, match=reason):
        flow(created, **world.arguments(**arguments))
    assert [run["run_count"] for run in world.runs] == [1]


def test_a_run_that_crashed_too_often_fails_and_leaves_its_job_alone(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())

    async def run_again() -> None:
        async with get_client() as client:
            run = await client.create_flow_run(
                restyle_object, parameters=world.arguments(created=created, params=SMALL)
            )
            for _ in range(MAX_RUNS):  # each was killed
                await client.set_flow_run_state(run.id, Running(), force=True)
                await client.set_flow_run_state(run.id, Crashed(), force=True)
            run = await client.read_flow_run(run.id)
            await run_flow_async(restyle_object, flow_run=run, parameters=world.arguments(created=created))

    with world.prefect.used_here(), pytest.raises(RunLimitError, match="run 6 of at most 5"):
        asyncio.run(run_again())
    assert world.runs[0]["state_type"] == "FAILED"
    assert not world.stored()


def test_an_interrupted_run_reports_the_status_of_its_job(world: World) -> None:
    created = world.put("a.jpg", PHOTO.read_bytes())

    async def interrupt() -> None:
        async with get_client() as client:
            run = await client.create_flow_run(restyle_object, parameters=world.arguments(created=created))
            (hook,) = restyle_object.on_crashed_hooks
            await cast("Any", hook)(restyle_object, run, Crashed())

    with world.prefect.used_here():
        asyncio.run(interrupt())
    (artifact,) = world.prefect.all("artifacts", flow_runs={"id": {"any_": [world.runs[0]["id"]]}})
    assert "Nothing was submitted and nothing is billed" in artifact["data"]


def test_an_automation_passes_the_event_on_unchanged_whatever_the_key_is(world: World) -> None:
    """With the parameters of prefect.yaml."""
    key = f"{world.folder}/in/ü 🙂+%41'\"\\<&>{{{{ event.id }}}}{{% x %}}.jpg"
    created = ObjectCreated(bucket="b", key=key, etag="0f", size=3, sequencer="7").model_dump(mode="json")
    call = world.prefect.call
    flow = call("POST", "/flows/", {"name": f"flow {world.folder}"})
    deployment = call("POST", "/deployments/", {"name": "object", "flow_id": flow["id"]})
    template = {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"}
    action = {
        "type": "run-deployment",
        "deployment_id": deployment["id"],
        "parameters": {"created": {"__prefect_kind": "json", "value": template}},
    }
    trigger = {
        "type": "event",
        "posture": "Reactive",
        "expect": ["restyle.object.created"],
        "match": {"prefect.resource.id": f"s3://b/{world.folder}/in/*"},
        "threshold": 1,
        "within": 0,
    }
    call("POST", "/automations/", {"name": world.folder, "trigger": trigger, "actions": [action]})
    event = {
        "id": str(uuid.uuid4()),
        "occurred": "2026-01-01T00:00:00Z",
        "event": "restyle.object.created",
        "resource": {"prefect.resource.id": f"s3://b/{key}"},
        "payload": created,
    }
    runs: list[dict[str, Any]] = []

    def started() -> bool:
        # a new automation is evaluated only a moment after it is saved
        event["occurred"], event["id"] = "2026-01-01T00:00:00Z", str(uuid.uuid4())
        call("POST", "/events", [event])
        runs[:] = world.prefect.all("flow_runs", deployments={"id": {"any_": [deployment["id"]]}})
        return bool(runs)

    wait_until(started)
    assert runs[0]["parameters"] == {"created": created}


def test_a_picture_from_a_directory_has_a_lineage(world: World, tmp_path: Path) -> None:
    photo = tmp_path / "a photo.jpg"
    photo.write_bytes(PHOTO.read_bytes() + world.folder.encode())  # a job of its own
    output = tmp_path / "with a space"
    with world.prefect.used_here():
        restyle_image(str(photo), params=SMALL, output=str(output))
    events = world.events("prefect.asset.", str(tmp_path), 2)
    ids = {event["event"].rpartition(".")[2]: event["resource"]["prefect.resource.id"] for event in events}
    assert ids["referenced"] == f"file://{tmp_path}/a=20photo.jpg"
    assert ids["succeeded"].startswith(f"file://{tmp_path}/with=20a=20space/images/")


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://bucket/dt=2026-01-01/ü+(1).jpg", "s3://bucket/dt=2026-01-01/ü+(1).jpg"),
        ("s3://bucket/a b%20[1].jpg", "s3://bucket/a=20b=2520=5B1=5D.jpg"),
        ("https://example.com/a%20b.jpg?v=2", "https://example.com/a=2520b.jpg=3Fv=2"),
        ("file:///tmp/a%20b.jpg", "file:///tmp/a=20b.jpg"),
        ("/tmp/out/1.jpeg", "file:///tmp/out/1.jpeg"),
        ("s3://bucket/a\tb\x1bc", "s3://bucket/a=09b=1Bc"),
        ("s3://bucket/" + "x" * 600, None),
    ],
)
def test_the_asset_key_for_a_uri(uri: str, key: str | None) -> None:
    assert asset_key(uri) == key
    assert key is None or Asset(key=key).key == key
