"""The whole system as a team runs it: server, worker, deployments, receiver, bucket, and the emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect_wavespeed.blocks.names import OBJECT_DEPLOYMENT, RECEIVER_TOKEN_SECRET, WORK_POOL
from tests.support.backends import behind_prefect, postgresql, redis
from tests.support.ceph import CephGateway
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import Receiving, free_port, receiving

KEY = "key-that-nobody-may-see"
PASSWORD = "team:a-password-of-prefects"
RUNS = 3
"""Objects restyled at once, each by its own process."""

_FILE = str(Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml")
_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_READ_TOKEN = f"from prefect.blocks.system import Secret; print(Secret.load({RECEIVER_TOKEN_SECRET!r}).get())"


@dataclass
class Deployed:
    """What is running, and what it has done.

    Attributes:
        elsewhere: an empty folder, in which the worker is started.
        receiver: set while it runs.
        worker: its process.
    """

    prefect: PrefectServer
    ceph: CephGateway
    emulator: Emulator
    elsewhere: Path
    receiver_port: int = field(default_factory=free_port)
    token: str = field(default="", repr=False)
    receiver: Receiving = field(init=False)
    worker: subprocess.Popen[bytes] = field(init=False)
    _sources: dict[str, str] = field(default_factory=dict)

    @property
    def watch(self) -> str:
        return f"s3://{self.ceph.bucket}/in/"

    @property
    def env(self) -> dict[str, str]:
        """The environment of all processes; leases are short, so lost jobs are taken over soon."""
        return {
            **self.prefect.env,
            **self.ceph.env,
            "RESTYLE_LEASE_SECONDS": "30",
            "RESTYLE_SUBMIT_TIMEOUT_SECONDS": "10",
            "RESTYLE_RECONCILE_SECONDS": "5",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    # --- what a team does ---

    def set_up(self, **more: str) -> None:
        """Run ``restyle setup`` and ``prefect deploy``, as docs/deploying.md says."""
        env = {
            **self.env,
            "WAVESPEED_API_KEY": KEY,
            "WAVESPEED_BASE_URL": self.emulator.url,
            "RESTYLE_WATCH": self.watch,
            "RESTYLE_RUNS": str(RUNS),
            "RESTYLE_WEBHOOK_URL": f"http://127.0.0.1:{self.receiver_port}/wavespeed",
            **more,
        }
        self._run(["restyle", "setup", "--out", f"s3://{self.ceph.bucket}/out"], env)
        self._run(["prefect", "deploy", "--prefect-file", _FILE, "--all"], env)

    def read_token(self) -> str:
        """The receiver's token, read as docs/deploying.md says."""
        return self._run([sys.executable, "-c", _READ_TOKEN], self.env).strip()

    def _run(self, command: list[str], env: dict[str, str]) -> str:
        done = subprocess.run(
            command, env=env, cwd=self.elsewhere, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done
        assert KEY not in done.stdout + done.stderr
        return done.stdout

    def start_worker(self) -> None:
        with (self.elsewhere / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                ["prefect", "worker", "start", "--pool", WORK_POOL],
                env=self.env,
                cwd=self.elsewhere,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_worker(self) -> None:
        """Kill the worker and the processes of its runs at once, as when their machine dies."""
        pids = [self.worker.pid, *_descendants(self.worker.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # so that none of them sees another one end
        pids += [child for pid in pids for child in _descendants(pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.worker.wait()

    def listen(self, prefix: str) -> None:
        """Let the bucket notify the receiver of objects created under a prefix, and of nothing else."""
        self.ceph.notify(f"{self.receiver.url}/s3?token={self.token}", prefix)

    def put(self, key: str, data: bytes) -> str:
        """Put an object into the bucket, and return its URI."""
        self.ceph.client().put_object(Bucket=self.ceph.bucket, Key=key, Body=data)
        return f"s3://{self.ceph.bucket}/{key}"

    # --- what the system has done ---

    def keys(self, prefix: str) -> list[str]:
        pages = self.ceph.client().get_paginator("list_objects_v2")
        listed = pages.paginate(Bucket=self.ceph.bucket, Prefix=prefix)
        return [entry["Key"] for page in listed for entry in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        return self.ceph.client().get_object(Bucket=self.ceph.bucket, Key=key)["Body"].read()

    def stored(self, prefix: str) -> Counter[str]:
        """How many side-cars there are for each source under a prefix of the bucket."""
        for key in self.side_cars():
            if key not in self._sources:  # they never change
                self._sources[key] = json.loads(self.read(key))["source"]["uri"]
        below = f"s3://{self.ceph.bucket}/{prefix}"
        return Counter(uri for uri in self._sources.values() if uri.startswith(below))

    def side_cars(self) -> list[str]:
        """The keys of all side-cars."""
        return [key for key in self.keys("out/images/") if key.endswith("/metadata.json")]

    def billed(self) -> int:
        """How many predictions were billed."""
        return sum(prediction["billed"] for prediction in self.emulator.ledger()["predictions"])

    def shorten(self, automation: str, seconds: int) -> None:
        """Shorten what an automation waits for, until `restyle setup` is run again."""
        (saved,) = [each for each in self.prefect.all("automations") if each["name"] == automation]
        kept = {key: saved[key] for key in ("name", "description", "enabled", "actions")}
        changed = {**kept, "trigger": {**saved["trigger"], "within": seconds}}
        self.prefect.call("PUT", f"/automations/{saved['id']}", changed)

    def letters(self) -> dict[str, str]:
        """The reasons of the dead letters, by source."""
        letters = [json.loads(self.read(key)) for key in self.keys("out/failed/")]
        return {letter["source"]["uri"]: letter["error"]["message"] for letter in letters}

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.prefect.call("GET", f"/deployments/name/{name}/{name}")
        return found

    def start(self, name: str, **parameters: Any) -> str:
        """Start a run of a deployment, and return its id."""
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        return str(
            self.prefect.call("POST", path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"]
        )

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.prefect.call("GET", f"/flow_runs/{run}")
        return found

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run."""
        wait_until(lambda: self.run(run)["state_type"] in _ENDED, 240)
        return self.run(run)

    def runs(self, name: str, **wanted: Any) -> list[dict[str, Any]]:
        """The runs of a deployment."""
        return self.prefect.all("flow_runs", deployments={"name": {"any_": [name]}}, flow_runs=wanted or None)

    def runs_of(self, key: str) -> list[dict[str, Any]]:
        """The runs that an event of this object started."""
        runs = self.runs(OBJECT_DEPLOYMENT)
        return [run for run in runs if run["parameters"].get("created", {}).get("key") == key]


def _descendants(pid: int) -> list[int]:
    """The child processes of a process, and their children."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    children = [child for child, parent in parents.items() if parent == pid]
    return children + [grandchild for child in children for grandchild in _descendants(child)]


@contextmanager
def deployed(ceph: CephGateway, emulator: Emulator, folder: Path) -> Iterator[Deployed]:
    """The whole system, until the end of the context."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    ceph = replace(ceph, bucket="deployed")  # other tests use the other one
    ceph.client().create_bucket(Bucket=ceph.bucket)
    with (
        postgresql() as database,
        redis() as messages,
        PrefectServer(folder / "prefect", behind_prefect(database, messages), PASSWORD) as prefect,
    ):
        team = Deployed(prefect, ceph, emulator, elsewhere)
        team.set_up()
        team.token = team.read_token()
        env = {**team.env, "RESTYLE_RECEIVER_TOKEN": ""}  # so that it reads the block
        with receiving(prefect, env=env, port=team.receiver_port) as team.receiver:
            team.listen("in/")
            team.start_worker()
            try:
                yield team
            finally:
                team.kill_worker()


def seconds_until(condition: Callable[[], Any], timeout: float = 240) -> float:
    """Wait until a condition holds, and return how long that took."""
    started = time.monotonic()
    wait_until(condition, timeout)
    return time.monotonic() - started
