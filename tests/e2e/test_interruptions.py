"""Runs on a real Prefect server are killed, terminated, cancelled and raced; each job is billed once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended, wait_until

_SEEDS = count(7_000)
_SLOW = 8  # seconds that a prediction takes, long enough to interrupt its run


@dataclass
class Work:
    """A job that commands run on a server, with its own seed, by which its traces are found."""

    prefect: PrefectServer
    emulator: Emulator
    output: Path
    seed: int

    @property
    def env(self) -> dict[str, str]:
        """The flow's settings."""
        return {"WAVESPEED_API_KEY": "some-key", "WAVESPEED_BASE_URL": self.emulator.url}

    def set_fault(self, **fault: Any) -> None:
        """Let the emulator inject a fault into the job's predictions."""
        self.emulator.faults([{"times": None, "match": {"seed": self.seed}, **fault}])

    def start(self) -> Command:
        """Start ``restyle image``."""
        options = ["--size", "256*256", "--seed", str(self.seed), "--json"]
        return self.prefect.start("image", str(PHOTO), "--out", str(self.output), *options, env=self.env)

    def start_to_poll(self) -> Command:
        """Start ``restyle image`` with a slow prediction, and wait until it polls that."""
        self.set_fault(on="prediction", fault="slow", seconds=_SLOW)
        command = self.start()
        self.wait_for_poll(command)
        return command

    def wait_for_poll(self, command: Command) -> None:
        """Wait until the job's prediction is polled."""
        wait_until(lambda: not command.running or self.emulator.ledger()["calls"]["result"])
        assert command.running, command.ended()

    def finish(self) -> dict[str, Any]:
        """Run the command to its end; the job must be done and billed once."""
        return self.done(self.start().ended())

    def done(self, ended: Ended) -> dict[str, Any]:
        """The command succeeded, the job was billed once, and nothing is open."""
        assert ended.status == 0, ended
        restyled: dict[str, Any] = json.loads(ended.stdout)
        assert restyled["seed"] == self.seed
        assert self.billed() == [restyled["prediction_id"]]
        assert self.emulator.ledger()["calls"]["submit"] == 1
        assert Path(restyled["metadata_uri"]).exists()
        assert [output for output in restyled["outputs"] if not Path(output["uri"]).exists()] == []
        assert list((self.output / "open").rglob("*.json")) == []
        return restyled

    def billed(self) -> list[str]:
        """The predictions that were billed."""
        return [
            prediction["id"] for prediction in self.emulator.ledger()["predictions"] if prediction["billed"]
        ]

    def runs(self) -> list[dict[str, Any]]:
        """The job's flow runs, the oldest first."""
        runs = self.prefect.all("flow_runs")
        mine = [run for run in runs if run["parameters"].get("params", {}).get("seed") == self.seed]
        return sorted(mine, key=lambda run: str(run["expected_start_time"]))

    def events(self, restyled: dict[str, Any]) -> list[str]:
        """The job's events, the newest first."""
        resource = f"wavespeed.job.{restyled['job_key']}"
        events = self.prefect.events("wavespeed.job.")
        return [event["event"] for event in events if event["resource"]["prefect.resource.id"] == resource]

    def check_reported_status(self, run: dict[str, Any]) -> None:
        """The run's hook published the status of the job."""
        mine = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        wait_until(lambda: self.prefect.all("artifacts", **mine))
        (artifact,) = self.prefect.all("artifacts", **mine)
        submitted = f"Attempt 1 is submitted and goes on at WaveSpeedAI: prediction {self.billed()[0]}."
        assert submitted in artifact["data"]
        assert "nothing is billed twice" in artifact["data"]


@pytest.fixture
def work(prefect: PrefectServer, emulator: Emulator, tmp_path: Path) -> Work:
    return Work(prefect, emulator, tmp_path / "out", next(_SEEDS))


def test_after_sigkill_while_polling_the_next_run_finishes_the_job_and_each_event_is_emitted_once(
    work: Work,
) -> None:
    command = work.start_to_poll()
    command.send(signal.SIGKILL)
    assert command.ended().status == -signal.SIGKILL
    restyled = work.finish()
    assert not restyled["cached"]
    wait_until(lambda: work.events(restyled)[:1] == ["wavespeed.job.stored"])
    assert work.finish()["cached"]
    _settle(work.prefect)
    assert work.events(restyled) == ["wavespeed.job.stored", "wavespeed.job.submitted"]


def test_after_sigterm_while_polling_the_run_is_crashed_and_reports_the_status_of_its_job(work: Work) -> None:
    command = work.start_to_poll()
    command.send(signal.SIGTERM)
    ended = command.ended()
    assert ended.status == 128 + signal.SIGTERM
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    (run,) = work.runs()
    assert run["state_type"] == "CRASHED"
    work.check_reported_status(run)
    work.finish()


def test_ctrl_c_ends_the_command_with_one_line(work: Work) -> None:
    command = work.start_to_poll()
    command.send(signal.SIGINT)
    ended = command.ended()
    assert ended.status == 130
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "nothing is billed twice" in ended.stderr
    (run,) = work.runs()
    assert run["state_type"] in ("CRASHED", "CANCELLED")
    work.finish()


@pytest.fixture
def served(work: Work) -> Iterator[tuple[str, Command]]:
    """A deployment of the flow, and the process that serves it."""
    script = f"from prefect_wavespeed import restyle_image; restyle_image.serve('served-{work.seed}')"
    runner = work.prefect.python("-c", script, env={**work.env, "PREFECT_RUNNER_POLL_FREQUENCY": "1"})
    path = f"/deployments/name/restyle-image/served-{work.seed}"

    def deployed() -> bool:
        return not runner.running or bool(work.prefect.all("deployments", deployments=_named(path)))

    try:
        wait_until(deployed)
        assert runner.running, runner.ended()
        yield str(work.prefect.call("GET", path)["id"]), runner
    finally:
        runner.send(signal.SIGTERM)
        runner.ended()


def test_a_run_cancelled_while_polling_reports_the_status_of_its_job(
    work: Work, served: tuple[str, Command]
) -> None:
    deployment, runner = served
    work.set_fault(on="prediction", fault="slow", seconds=3 * _SLOW)
    parameters = {
        "image": str(PHOTO),
        "output": str(work.output),
        "params": {"size": "256*256", "seed": work.seed},
    }
    work.prefect.call("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
    work.wait_for_poll(runner)
    (run,) = work.runs()
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    work.prefect.call("POST", f"/flow_runs/{run['id']}/set_state", cancelling)
    wait_until(lambda: work.runs()[0]["state_type"] == "CANCELLED")
    work.check_reported_status(run)
    assert list((work.output / "open").rglob("*.prediction.json")) != []
    assert not work.finish()["cached"]


def _named(path: str) -> dict[str, Any]:
    return {"name": {"any_": [path.rpartition("/")[2]]}}


def _settle(prefect: PrefectServer) -> None:
    """Wait until no more events arrive."""
    seen = -1
    while seen != (seen := len(prefect.events())):
        time.sleep(3)
