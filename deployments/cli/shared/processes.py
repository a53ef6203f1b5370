"""Child processes of a command that end with it, and waiting for the servers in them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect_wavespeed.errors import RestyleError

_START_SECONDS = 120.0
_STOP_SECONDS = 3.0

# no proxy of the environment for loopback
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def python_process(
    arguments: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str], capture_stdout: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run Python in a process group of its own, which is killed at the end, whatever happens.

    Args:
        arguments: of the interpreter.
        log: file for stderr, and for stdout unless that is captured.
        cwd: its working directory.
        env: its environment.
        capture_stdout: make stdout a pipe.
    """
    with log.open("w") as file:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments],
            env=dict(env),
            stdout=subprocess.PIPE if capture_stdout else file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            cwd=cwd,
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SECONDS)
            break
    with suppress(ProcessLookupError):  # children that outlived the leader
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


def wait_until_healthy(process: subprocess.Popen[str], url: str, log: Path) -> None:
    """Wait until a URL of the process answers 200.

    Raises:
        RestyleError: the process ended, or did not answer within two minutes.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), _opener.open(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise RestyleError(f"a server did not start: see {log}")


def fetch_json(url: str) -> dict[str, Any]:
    """GET a JSON object."""
    with _opener.open(url, timeout=10) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
