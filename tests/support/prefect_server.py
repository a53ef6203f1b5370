"""A real Prefect server of its own for tests, and the command ``restyle`` run against it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.support.processes import Command, Ended, end, wait_until

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 300.0  # ten with a fresh database on an idle machine
_PAGE = 200
# Settings of this machine's user must not leak into tests.
_NOT_INHERITED = ("PREFECT_", "RESTYLE_", "WAVESPEED_", "AWS_")
# On a busy machine SQLite stays locked for longer than Prefect's default of ten seconds: it would answer 503.
_LONG_TIMEOUTS = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "120",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "120",
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_API_REQUEST_TIMEOUT": "180",
}
# Workers and served flows look for runs every ten to fifteen seconds by default.
OFTEN = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_RUNNER_POLL_FREQUENCY": "2"}


class PrefectServer:
    """``prefect server start`` on a free port, with its own home and database, until the end of the context.

    It also ends when this process does, even if that is killed.

    Args:
        home: an empty folder for its PREFECT_HOME.
        settings: more variables for its environment.
        auth: ``user:password`` that every call has to send.

    Attributes:
        url: URL of its API.
    """

    def __init__(
        self, home: Path, settings: Mapping[str, str] | None = None, auth: str | None = None
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.home = home
        self.url = f"http://127.0.0.1:{self._port}/api"
        self._settings = dict(settings or {})
        self._auth = auth
        if auth:
            self._settings["PREFECT_SERVER_API_AUTH_STRING"] = auth
        user, _, password = (auth or "").partition(":")
        self._http = httpx.Client(
            base_url=self.url, timeout=180, trust_env=False, auth=(user, password) if auth else None
        )
        self.start_again()

    def start_again(self) -> None:
        """Start it, with its present database."""
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.prefect_server", str(self._port)],
                env={**self.env, **self._settings},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self._healthy, _START_SECONDS)
        except BaseException:
            self.stop()
            raise

    @property
    def env(self) -> dict[str, str]:
        """An environment in which Prefect uses this server, and nothing else is configured."""
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH")) if part)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)},
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PREFECT_HOME": str(self.home),
            "PREFECT_PROFILES_PATH": str(self.home / "profiles.toml"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": path,
            **({"PREFECT_API_AUTH_STRING": self._auth} if self._auth else {}),
            **_LONG_TIMEOUTS,
            **OFTEN,
        }

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Start ``restyle`` with these arguments, in `env` updated by ``env``."""
        return self.python("-m", "prefect_wavespeed", *arguments, env=env)

    def restyle(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run ``restyle`` to its end."""
        return self.start(*arguments, env=env).ended()

    def python(self, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Start Python with these arguments."""
        return Command(list(arguments), {**self.env, **(env or {})})

    def deploy(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        """Run ``prefect deploy`` in the root of the repository, where it finds prefect.yaml."""
        command = ["-m", "prefect", "--no-prompt", "deploy", *options]
        ended = Command(command, {**self.env, **(env or {})}, cwd=_ROOT).ended()
        assert ended.status == 0, ended

    @contextmanager
    def used_here(self, api_url: str | None = None) -> Iterator[None]:
        """Let Prefect in this process use this server, for example to save blocks; or another API."""
        from prefect.settings import (
            PREFECT_API_AUTH_STRING,
            PREFECT_API_URL,
            PREFECT_HOME,
            temporary_settings,
        )

        here = {PREFECT_API_URL: api_url or self.url, PREFECT_HOME: self.home}
        if self._auth:
            here[PREFECT_API_AUTH_STRING] = self._auth
        with temporary_settings(here):
            yield

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call its API and return the answer.

        It answers 503 while SQLite is overloaded; the call is then repeated, as Prefect's own client does.

        Raises:
            httpx.HTTPStatusError: the call is refused.
        """
        for wait in (0.5, 1, 2, 4, 8, 0):
            answer = self._http.request(method, self.url + path, json=body)
            if answer.status_code != 503:
                break
            time.sleep(wait)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def all(self, kind: str, **query: Any) -> list[dict[str, Any]]:
        """All objects of a kind, such as ``flow_runs``, that match a query."""
        found: list[dict[str, Any]] = []
        while True:
            body = {**query, "limit": _PAGE, "offset": len(found)}
            page = self.call("POST", f"/{kind}/filter", body)
            found += page
            if len(page) < _PAGE:
                return found

    def events(self, prefix: str = "") -> list[dict[str, Any]]:
        """All stored events whose names have this prefix."""
        query = {"filter": {"event": {"prefix": [prefix]}} if prefix else {}, "limit": 50}
        page = self.call("POST", "/events/filter", query)
        found: list[dict[str, Any]] = page["events"]
        while page["next_page"]:
            page = self.call("GET", page["next_page"].partition("/api")[2])
            found += page["events"]
        return found

    def halt(self) -> None:
        """Stop it and its child processes; `start_again` starts it again."""
        end(self.process)
        if self.process.stdin:
            self.process.stdin.close()

    def clean(self) -> None:
        """Delete all blocks, limits, deployments, automations, variables and work pools."""
        for document in self.all("block_documents"):
            self.call("DELETE", f"/block_documents/{document['id']}")
        for limit in self.all("v2/concurrency_limits"):
            self.call("DELETE", f"/v2/concurrency_limits/{limit['id']}")
        for kind in ("deployments", "automations", "variables"):
            for thing in self.all(kind):
                self.call("DELETE", f"/{kind}/{thing['id']}")
        for pool in self.all("work_pools"):
            self.call("DELETE", f"/work_pools/{pool['name']}")

    def stop(self) -> None:
        """Stop it for good."""
        if "prefect" in sys.modules:
            from prefect_wavespeed.deployments.prefect_runtime import flush

            # Flows in this process tell it the rest now: later they would try for a minute. What is for a
            # server that is gone stays untold.
            with suppress(TimeoutError), self.used_here():
                asyncio.run(flush())
        self.halt()
        self._http.close()

    def __enter__(self) -> PrefectServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _healthy(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the Prefect server did not start: {(self.home / 'server.log').read_text()}")
        with suppress(httpx.TransportError):
            return self._http.get(self.url + "/health").status_code == 200
        return False


def serve(port: str) -> int:
    """Run a server until it ends or standard input closes, which also happens if the parent is killed."""

    def end_all() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, lambda *_: None)  # the server receives it, too, and ends
    threading.Thread(target=end_all, daemon=True).start()
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", port]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
