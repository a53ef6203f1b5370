"""A real Prefect server of its own for tests, and the command ``restyle`` run against it."""

from __future__ import annotations

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

from prefect_wavespeed.blocks.names import (
    API_KEY_SECRET,
    IN_FLIGHT_LIMIT,
    OUTPUT_BLOCK,
    RECEIVER_TOKEN_SECRET,
    WAVESPEED_BLOCK,
    WEBHOOK_SECRET,
)
from tests.support.processes import Command, Ended, end, wait_until

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 300.0  # a fresh database takes ten where nothing else runs
_PAGE = 200
_USERS_BLOCKS = {WAVESPEED_BLOCK, API_KEY_SECRET, OUTPUT_BLOCK, RECEIVER_TOKEN_SECRET, WEBHOOK_SECRET}
# What the user of this machine has set up is no part of a test.
_NOT_PASSED_ON = ("PREFECT_", "RESTYLE_", "WAVESPEED_", "AWS_")
# On a busy machine SQLite is locked for longer than Prefect's ten seconds: it would answer 503.
_PATIENT = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "120",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "120",
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_API_REQUEST_TIMEOUT": "180",
}


class PrefectServer:
    """Starts ``prefect server start`` on a free port, with a home and a database of its own, and stops it.

    It also ends when this process does, however that happens.

    Args:
        home: an empty folder: its PREFECT_HOME.
        settings: more of its environment.
        auth: ``user:password`` that every call must bear.

    Attributes:
        url: of its API.
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
        """Start it, with the database that it has."""
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
        """An environment in which Prefect means this server, and nothing else is set up."""
        path = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH")) if part)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)},
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "PREFECT_HOME": str(self.home),
            "PREFECT_PROFILES_PATH": str(self.home / "profiles.toml"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": path,
            **({"PREFECT_API_AUTH_STRING": self._auth} if self._auth else {}),
            **_PATIENT,
        }

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Start ``restyle`` with these arguments; ``env`` comes on top of `env`."""
        return self.python("-m", "prefect_wavespeed", *arguments, env=env)

    def restyle(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run ``restyle`` to its end."""
        return self.start(*arguments, env=env).ended()

    def python(self, *arguments: str, env: Mapping[str, str] | None = None) -> Command:
        """Start Python with these arguments."""
        return Command(list(arguments), {**self.env, **(env or {})})

    @contextmanager
    def used_here(self) -> Iterator[None]:
        """Let Prefect in this process mean this server, to save blocks for one."""
        from prefect.settings import (
            PREFECT_API_AUTH_STRING,
            PREFECT_API_URL,
            PREFECT_HOME,
            temporary_settings,
        )

        here = {PREFECT_API_URL: self.url, PREFECT_HOME: self.home}
        if self._auth:
            here[PREFECT_API_AUTH_STRING] = self._auth
        with temporary_settings(here):
            yield

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a call of its API, and return the answer; an ``httpx.HTTPStatusError`` where it refuses.

        SQLite under load makes it answer 503: then again, as Prefect's own client does.
        """
        for wait in (0.5, 1, 2, 4, 8, 0):
            answer = self._http.request(method, self.url + path, json=body)
            if answer.status_code != 503:
                break
            time.sleep(wait)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def all(self, kind: str, **query: Any) -> list[dict[str, Any]]:
        """All objects of a kind, such as ``flow_runs``, that a query finds."""
        found: list[dict[str, Any]] = []
        while True:
            body = {**query, "limit": _PAGE, "offset": len(found)}
            page = self.call("POST", f"/{kind}/filter", body)
            found += page
            if len(page) < _PAGE:
                return found

    def events(self, prefix: str = "") -> list[dict[str, Any]]:
        """All events in its store whose names begin like this."""
        query = {"filter": {"event": {"prefix": [prefix]}} if prefix else {}, "limit": 50}
        page = self.call("POST", "/events/filter", query)
        found: list[dict[str, Any]] = page["events"]
        while page["next_page"]:
            page = self.call("GET", page["next_page"].partition("/api")[2])
            found += page["events"]
        return found

    def halt(self) -> None:
        """End it, and whatever it started, until `start_again`."""
        end(self.process)
        if self.process.stdin:
            self.process.stdin.close()

    def clean(self) -> None:
        """Forget what ``restyle setup`` and ``prefect deploy`` have made: other tests mean other places."""
        for document in self.call("POST", "/block_documents/filter", {}):
            if document["name"] in _USERS_BLOCKS:
                self.call("DELETE", f"/block_documents/{document['id']}")
        for limit in self.all("v2/concurrency_limits"):
            if limit["name"] == IN_FLIGHT_LIMIT:
                self.call("DELETE", f"/v2/concurrency_limits/{limit['id']}")
        for kind in ("deployments", "automations", "variables"):
            for thing in self.all(kind):
                self.call("DELETE", f"/{kind}/{thing['id']}")
        for pool in self.call("POST", "/work_pools/filter", {}):
            self.call("DELETE", f"/work_pools/{pool['name']}")

    def stop(self) -> None:
        """End it for good."""
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
    """Run a server to its end, or until standard input closes: also when whoever started it was killed."""

    def end_all() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, lambda *_: None)  # the server has it as well, and takes its time
    threading.Thread(target=end_all, daemon=True).start()
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", port]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
