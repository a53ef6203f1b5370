"""Processes that tests start, and waiting for what comes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a command ended: negative where a signal killed it."""

    status: int
    stdout: str
    stderr: str


class Command:
    """A Python process in a group of its own; its output is kept in files, so that it never has to wait."""

    def __init__(self, arguments: list[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `ended`
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self.process.send_signal(signum)

    def ended(self, timeout: float = 300) -> Ended:
        """Wait for its end; nothing of it is left afterwards, whatever happens."""
        try:
            status = self.process.wait(timeout)
        finally:
            end(self.process, patience=0)
        said = []
        for file in (self._out, self._err):
            with file:
                file.seek(0)
                said.append(file.read().decode())
        return Ended(status, *said)


def end(process: subprocess.Popen[bytes], patience: float = 20) -> None:
    """End a process and its whole group; after ``patience`` seconds without asking."""
    if patience:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Any, timeout: float = 120) -> None:
    """Wait until a condition holds; a ``TimeoutError`` where it never does."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not within {timeout:g} s")
        time.sleep(0.1)


def running_with(setting: str) -> list[str]:
    """The command lines of other processes whose environment has a setting that begins like this."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            settings = (process / "environ").read_bytes().split(b"\0")
            if process.name != str(os.getpid()) and any(s.startswith(setting.encode()) for s in settings):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
