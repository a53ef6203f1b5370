"""`restyle setup`, and `prefect deploy` of deployments/prefect.yaml, on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.blocks import WaveSpeed
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.in_process import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended

pytestmark = pytest.mark.e2e  # servers and processes

KEY = "key-that-nobody-may-see"
WATCH = "s3://bucket/in/"
AUTOMATIONS = (
    "restyle: lost runs",
    "restyle: retry objects after a crash",
    "restyle: runs that never started",
)


@dataclass
class Team:
    """A team with a Prefect server on which nothing is set up."""

    prefect: PrefectServer
    emulator: Emulator

    @property
    def env(self) -> dict[str, str]:
        return {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.emulator.url}

    def run(self, *options: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run ``restyle setup``; it never prints the key."""
        ended = restyle("setup", *options, prefect=self.prefect, env={**self.env, **(env or {})})
        assert KEY not in ended.stdout + ended.stderr
        return ended

    def setup(self, *options: str, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Run it, and return the outcome for each thing."""
        return outcomes(self.run(*options, env=env))

    def deploy(self) -> dict[str, dict[str, Any]]:
        """Deploy everything, and return the deployments by their names."""
        self.prefect.deploy("--all", env=self.env)
        return {deployment["name"]: deployment for deployment in self.prefect.all("deployments")}

    @property
    def variables(self) -> dict[str, Any]:
        """The settings; not which outputs runs have used."""
        found = {v["name"].removeprefix("restyle_"): v["value"] for v in self.prefect.all("variables")}
        return {name: value for name, value in found.items() if not name.startswith("used_")}

    @property
    def automations(self) -> dict[str, dict[str, Any]]:
        return {automation["name"]: automation for automation in self.prefect.all("automations")}


def outcomes(ended: Ended) -> dict[str, str]:
    assert (ended.status, ended.stderr) == (0, "")
    lines = [line.split(None, 1) for line in ended.stdout.splitlines()]
    return {_thing(line): outcome for outcome, line in lines}


def _thing(line: str) -> str:
    name = re.match(r"automation/restyle: [^:]*|[^:]*", line)
    assert name
    return name[0]


@pytest.fixture
def team(prefect: PrefectServer, emulator: Emulator) -> Iterator[Team]:
    team = Team(prefect, emulator)
    yield team
    prefect.clean()


def test_setup_creates_what_is_missing_and_keeps_the_rest(team: Team, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    options = ("--out", out, "--watch", WATCH, "--tier", "silver")
    created = outcomes(team.prefect.restyle("setup", *options, env=team.env))  # as a process
    assert set(created.values()) == {"created", "now"}
    assert created["run  prefect --no-prompt deploy --all"] == "now"
    assert {
        "secret/wavespeed-api-key", "wavespeed/default", "global-concurrency-limit/wavespeed-in-flight",
        "local-file-system/restyle-output", "secret/restyle-receiver-token", "work-pool/restyle",
        "work-queue/restyle/restyle-object", *(f"automation/{name}" for name in AUTOMATIONS),
    } < set(created)  # fmt: skip
    assert team.variables == {
        "work_pool": "restyle",
        "image": "prefect-wavespeed:latest",
        "max_cost_usd": None,
        "watch": WATCH,
        "watching": True,
        "output": "local-file-system/restyle-output",
        "schedule": "0 2 * * *",
        "manifest": WATCH,
        "scheduled": True,
    }

    again = team.setup("--out", out, "--tier", "silver")
    assert again == {thing: "found" for thing in created if created[thing] == "created"}

    assert (
        team.setup("--out", out, env={"WAVESPEED_API_KEY": "another"})["secret/wavespeed-api-key"]
        == "updated"
    )
    bucket = team.setup("--out", "s3://other/prefix")
    assert [bucket[block] for block in ("aws-credentials/restyle-output", "s3-bucket/restyle-output")] == [
        "created",
        "created",
    ]
    assert team.variables["output"] == "s3-bucket/restyle-output"

    # the blocks suffice: with nothing in the environment, into the saved directory
    image_options = ["--out", "local-file-system/restyle-output", "--size", "256*256", "--json"]
    ended = restyle("image", str(PHOTO), *image_options, prefect=team.prefect)
    assert json.loads(ended.stdout)["outputs"][0]["uri"].startswith(out)


def test_settings_come_from_the_environment_and_stay_until_it_changes_them(
    team: Team, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path)]
    first = {
        "RESTYLE_WATCH": "s3://bucket/in",  # is taken as a folder
        "RESTYLE_WORK_POOL": "k8s",
        "RESTYLE_IMAGE": "team/restyle:7",
        "RESTYLE_SCHEDULE": "30 1 * * *",
        "RESTYLE_RUNS": "9",
        "RESTYLE_MAX_COST_USD": "20",
        "RESTYLE_RECEIVER_TOKEN": "a-token-of-our-own",
    }
    template = {
        "job_configuration": {"image": "{{ image }}", "env": "{{ env }}"},
        "variables": {
            "type": "object",
            "properties": {"image": {"type": "string"}, "env": {"type": "object"}},
        },
    }
    team.prefect.call(
        "POST", "/work_pools/", {"name": "k8s", "type": "kubernetes", "base_job_template": template}
    )
    assert team.setup(*out, env=first)["work-pool/k8s"] == "found"  # whatever its type
    queue = team.prefect.call("GET", "/work_pools/k8s/queues/restyle-object")
    assert queue["concurrency_limit"] == 9
    deployed = team.deploy()
    assert {d["job_variables"]["image"] for d in deployed.values()} == {"team/restyle:7"}
    assert deployed["restyle-batch"]["parameters"]["options"]["max_cost_usd"] == 20
    assert team.variables["watch"] == team.variables["manifest"] == WATCH

    then = team.setup()
    assert {outcome for thing, outcome in then.items() if thing.startswith(("variable/", "work-"))} == {
        "found"
    }

    changed = team.setup(env={"RESTYLE_WATCH": "s3://bucket/new/", "RESTYLE_RUNS": "2"})
    assert [changed["work-queue/k8s/restyle-object"], changed["variable/restyle_watch"]] == [
        "updated",
        "updated",
    ]
    assert team.variables["manifest"] == "s3://bucket/new/"  # it follows the watched prefix
    named = {"RESTYLE_MANIFEST": "s3://bucket/all.csv"}
    team.setup(env=named)
    team.setup("--watch", "", env={"RESTYLE_MAX_COST_USD": ""})
    assert team.deploy()["restyle-batch"]["parameters"]["options"]["max_cost_usd"] is None
    expected = {"watch": "none", "watching": False, "manifest": "s3://bucket/all.csv", "scheduled": True}
    assert expected.items() <= team.variables.items()


def test_an_automation_is_updated_and_stays_disabled(team: Team, tmp_path: Path) -> None:
    team.setup("--out", str(tmp_path))
    old = team.automations["restyle: lost runs"]
    assert old["trigger"]["after"] == ["prefect.flow-run.heartbeat"], "only who was heard of falls silent"
    path = f"/automations/{old['id']}"
    team.prefect.call("PATCH", path, {"enabled": False})
    assert team.setup()["automation/restyle: lost runs"] == "found"
    changed = {key: old[key] for key in ("name", "description", "actions")}
    team.prefect.call(
        "PUT", path, {**changed, "enabled": False, "trigger": {**old["trigger"], "within": 1000}}
    )
    assert team.setup()["automation/restyle: lost runs"] == "updated"
    now = team.automations["restyle: lost runs"]
    assert (now["id"], now["enabled"], now["trigger"]["within"]) == (old["id"], False, 90)
    assert set(AUTOMATIONS) == set(team.automations)


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        (["--out", "s3://bucket/in/done", "--watch", WATCH], {}, ["s3://bucket/in/done", WATCH, "overlap"]),
        (["--out", "s3://bucket", "--watch", WATCH], {}, ["s3://bucket ", WATCH, "overlap", "choose"]),
        (["--watch", WATCH], {}, ["restyle setup --out"]),
        (["--watch", "bucket/in"], {}, ["--watch bucket/in", "s3://bucket/prefix/"]),
        (["--watch", "s3://bucket/*/in/"], {}, ["--watch s3://bucket/*/in/", "cannot be watched"]),
        (["--out", "gs://bucket"], {}, ["--out gs://bucket", "s3://bucket/prefix"]),
        (["--out", "s3://"], {}, ["--out s3://", "the bucket's name is missing"]),
        ([], {"RESTYLE_MAX_COST_USD": "-1"}, ["RESTYLE_MAX_COST_USD -1", "more than 0 USD"]),
        ([], {"RESTYLE_SCHEDULE": "nightly"}, ["RESTYLE_SCHEDULE nightly", "'0 2 * * *'"]),
        ([], {"RESTYLE_RUNS": "many"}, ["RESTYLE_RUNS many", "1 or more"]),
        ([], {"WAVESPEED_API_KEY": ""}, ["WAVESPEED_API_KEY"]),
        ([], {"WAVESPEED_API_KEY": "…"}, ["WaveSpeed API key", "malformed"]),
        ([], {"RESTYLE_WEBHOOK_URL": "http://example.com/wavespeed"}, ["webhook_url", "https"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else " ".join(value.values()),
)
def test_an_invalid_setting_is_one_line_and_nothing_is_saved(
    team: Team, options: list[str], env: dict[str, str], expected: list[str]
) -> None:
    ended = team.run(*options, env=env)
    assert (ended.status, ended.stdout, team.variables) == (1, "", {})
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert [part for part in expected if part not in ended.stderr] == []


def test_a_block_whose_secret_was_deleted_is_reported_with_the_remedy(team: Team) -> None:
    team.setup()
    found = team.prefect.call("GET", "/block_types/slug/secret/block_documents/name/wavespeed-api-key")
    team.prefect.call("DELETE", f"/block_documents/{found['id']}")
    ended = team.run()
    assert ended.status == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: block wavespeed/default cannot be loaded")
    (remedy,) = re.findall("`prefect (block delete .*?)`", line)
    assert team.prefect.python("-m", "prefect", *remedy.split()).ended().status == 0
    assert team.setup()["wavespeed/default"] == "created"


def test_webhooks_are_enabled_and_disabled(team: Team, tmp_path: Path) -> None:
    def url() -> Any:
        documents = team.prefect.call("POST", "/block_documents/filter", {"include_secrets": True})
        (block,) = [
            one for one in documents if (one["block_type"]["slug"], one["name"]) == ("wavespeed", "default")
        ]
        return block["data"].get("webhook_url")

    team.setup("--out", str(tmp_path), env={"RESTYLE_WEBHOOK_URL": "https://restyle.example.com/wavespeed"})
    assert url() == "https://restyle.example.com/wavespeed"
    assert team.setup()["wavespeed/default"] == "found"
    team.setup(env={"RESTYLE_WEBHOOK_URL": ""})
    assert url() is None


def test_what_is_known_of_an_api_is_kept_until_the_block_is_for_another(team: Team, tmp_path: Path) -> None:
    team.setup("--out", str(tmp_path))
    known = ApiTraits(history_has_inputs=True, image_url_is_kept=False)
    with team.prefect.used_here():
        block = WaveSpeed.load("default")
        assert isinstance(block, WaveSpeed)
        block.traits = known
        block.save("default", overwrite=True)

    def traits() -> ApiTraits:
        with team.prefect.used_here():
            block = WaveSpeed.load("default")
        assert isinstance(block, WaveSpeed)
        return block.traits

    assert team.setup("--tier", "gold")["wavespeed/default"] == "updated"
    assert traits() == known
    team.setup(env={"WAVESPEED_BASE_URL": "http://127.0.0.1:9"})
    assert traits() == ApiTraits()


def test_deployments_have_the_settings(team: Team) -> None:
    team.setup("--out", "s3://bucket/out", "--watch", WATCH, env={"RESTYLE_SCHEDULE": "5 3 * * *"})
    for _ in range(2):  # and again, which changes nothing
        deployed = team.deploy()
        assert set(deployed) == {"restyle-image", "restyle-batch", "restyle-object", "settle"}
        for deployment in deployed.values():
            assert deployment["tags"] == ["restyle"]
            assert deployment["work_pool_name"] == "restyle"
            assert deployment["parameters"]["output"] == "s3-bucket/restyle-output"
            assert deployment["job_variables"] == {
                "image": "prefect-wavespeed:latest",
                "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
            }
        (nightly,) = deployed["restyle-batch"]["schedules"]
        assert (nightly["active"], nightly["schedule"]["cron"]) == (True, "5 3 * * *")
        assert deployed["restyle-batch"]["parameters"]["manifest"] == WATCH
        assert deployed["restyle-object"]["work_queue_name"] == "restyle-object"
        assert deployed["restyle-object"]["parameters"]["watched"] == WATCH
        settle = deployed["settle"]
        assert settle["schedules"][0]["schedule"]["interval"] == 300
        assert settle["global_concurrency_limit"]["limit"] == 1
        assert settle["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        automations = team.automations
        assert len(automations) == len(AUTOMATIONS) + 3
        created = automations["restyle: objects created"]
        assert (created["enabled"], created["trigger"]["match"]) == (
            True,
            {"prefect.resource.id": f"{WATCH}*"},
        )
        for name in ("restyle: settle after webhooks", "restyle: settle after crashes"):
            (action,) = automations[name]["actions"]
            assert action["deployment_id"] == settle["id"]
            assert action["schedule_after"] == automations[name]["trigger"]["within"] == 30


def test_without_a_watched_prefix_nothing_is_triggered_or_scheduled(team: Team, tmp_path: Path) -> None:
    team.setup("--out", str(tmp_path))
    deployed = team.deploy()
    assert [schedule["active"] for schedule in deployed["restyle-batch"]["schedules"]] == [False]
    created = team.automations["restyle: objects created"]
    assert (created["enabled"], created["trigger"]["match"]) == (False, {"prefect.resource.id": "none*"})
