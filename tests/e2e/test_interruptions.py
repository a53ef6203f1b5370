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
_SLOW = 20  # seconds that a prediction takes, long enough to interrupt its run
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


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

    def start(self) -> Command:
        """Start ``restyle image``; what it says of a new directory is no part of this."""
        self.output.mkdir(parents=True, exist_ok=True)
        options = ["--size", "256*256", "--seed", str(self.seed), "--json"]
        return self.prefect.start("image", str(PHOTO), "--out", str(self.output), *options, env=self.env)

    def wait_until_polling(self, command: Command) -> None:
        """Wait until the job's prediction is recorded: polling it comes next."""
        wait_until(lambda: not command.running or self.open("prediction"))
        assert command.running, command.ended()

    def done(self, ended: Ended) -> dict[str, Any]:
        """The command succeeded, the job was billed once, and nothing is open."""
        assert ended.status == 0, ended
        restyled: dict[str, Any] = json.loads(ended.stdout)
        assert restyled["seed"] == self.seed
        assert self.submitted() == [restyled["prediction_id"]]
        assert Path(restyled["metadata_uri"]).exists()
        assert [output for output in restyled["outputs"] if not Path(output["uri"]).exists()] == []
        assert self.open() == []
        return restyled

    def open(self, kind: str = "*") -> list[Path]:
        """The job's open claims and predictions."""
        return list((self.output / "open").rglob(f"*.{kind}.json"))

    def submitted(self) -> list[str]:
        """The job's predictions; each was billed."""
        predictions = self.emulator.ledger()["predictions"]
        mine = [prediction for prediction in predictions if prediction["input"]["seed"] == self.seed]
        assert all(prediction["billed"] for prediction in mine)
        return [prediction["id"] for prediction in mine]

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
        submitted = f"Attempt 1 is submitted and running at WaveSpeedAI: prediction {self.submitted()[0]}."
        assert submitted in artifact["data"]
        assert "nothing is billed twice" in artifact["data"]


@pytest.fixture(scope="module")
def emulator(emulator_process: Emulator) -> Emulator:
    """The session's emulator, where every prediction for this file is slow."""
    emulator_process.reset()
    emulator_process.faults([{"on": "prediction", "fault": "slow", "seconds": _SLOW, "times": None}])
    return emulator_process


@pytest.fixture
def work(prefect: PrefectServer, emulator: Emulator, tmp_path: Path) -> Work:
    return Work(prefect, emulator, tmp_path / "out", next(_SEEDS))


@dataclass
class Interrupted:
    """A job whose first command was interrupted while it polled, and whose second was not.

    Attributes:
        restyled: what the second command returned.
    """

    work: Work
    first: Ended
    restyled: dict[str, Any]


@pytest.fixture(scope="module")
def interrupted(
    prefect: PrefectServer, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> dict[signal.Signals, Interrupted]:
    """A job for each signal; all at once, for most of it is waiting."""
    works = [Work(prefect, emulator, tmp_path_factory.mktemp(name.name), next(_SEEDS)) for name in _SIGNALS]
    commands = [work.start() for work in works]
    for work, command in zip(works, commands, strict=True):
        work.wait_until_polling(command)
    for command, name in zip(commands, _SIGNALS, strict=True):
        command.send(name)
    ends = [command.ended() for command in commands]
    commands = [work.start() for work in works]
    done = [work.done(command.ended()) for work, command in zip(works, commands, strict=True)]
    jobs = [Interrupted(*job) for job in zip(works, ends, done, strict=True)]
    return dict(zip(_SIGNALS, jobs, strict=True))


def test_after_sigkill_the_next_run_finishes_the_job_and_each_event_is_emitted_once(
    interrupted: dict[signal.Signals, Interrupted],
) -> None:
    killed = interrupted[signal.SIGKILL]
    assert killed.first.status == -signal.SIGKILL
    assert not killed.restyled["cached"]
    work, restyled = killed.work, killed.restyled
    wait_until(lambda: work.events(restyled)[:1] == ["wavespeed.job.stored"])
    assert work.done(work.start().ended())["cached"]
    _settle(work.prefect)
    assert work.events(restyled) == ["wavespeed.job.stored", "wavespeed.job.submitted"]


def test_after_sigterm_the_run_is_crashed_and_reports_the_status_of_its_job(
    interrupted: dict[signal.Signals, Interrupted],
) -> None:
    terminated = interrupted[signal.SIGTERM]
    assert terminated.first.status == 128 + signal.SIGTERM
    assert terminated.first.stdout == ""
    assert terminated.first.stderr.count("\n") == 1
    run, _ = terminated.work.runs()
    assert run["state_type"] == "CRASHED"
    terminated.work.check_reported_status(run)


def test_ctrl_c_ends_the_command_with_one_line(interrupted: dict[signal.Signals, Interrupted]) -> None:
    stopped = interrupted[signal.SIGINT]
    assert stopped.first.status == 130
    assert stopped.first.stdout == ""
    assert stopped.first.stderr.count("\n") == 1
    assert "nothing is billed twice" in stopped.first.stderr
    run, _ = stopped.work.runs()
    assert run["state_type"] in ("CRASHED", "CANCELLED")


@pytest.fixture
def served(work: Work) -> Iterator[tuple[str, Command]]:
    """A deployment of the flow, and the process that serves it."""
    script = f"from prefect_wavespeed import restyle_image; restyle_image.serve('served-{work.seed}')"
    runner = work.prefect.python("-c", script, env=work.env)
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
    parameters = {
        "image": str(PHOTO),
        "output": str(work.output),
        "params": {"size": "256*256", "seed": work.seed},
    }
    work.prefect.call("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
    work.wait_until_polling(runner)
    (run,) = work.runs()
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    work.prefect.call("POST", f"/flow_runs/{run['id']}/set_state", cancelling)
    wait_until(lambda: work.runs()[0]["state_type"] == "CANCELLED")
    work.check_reported_status(run)
    assert work.open("prediction") != []
    assert not work.done(work.start().ended())["cached"]


def _named(path: str) -> dict[str, Any]:
    return {"name": {"any_": [path.rpartition("/")[2]]}}


def _settle(prefect: PrefectServer) -> None:
    """Wait until no more events arrive."""
    seen = -1
    while seen != (seen := len(prefect.events())):
        time.sleep(3)
