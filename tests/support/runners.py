"""Many runners at little cost: processes forked from one that has imported everything, and run nothing."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import boto3
from botocore.loaders import JSONFileLoader

from prefect_wavespeed.job import Restyled
from tests.support.engine import PHOTO

_ROOT = Path(__file__).resolve().parents[2]
# As short as a busy machine allows: a POST must leave within half a lease of its claim.
TIMES = {
    "RESTYLE_LEASE_SECONDS": "12",
    "RESTYLE_SUBMIT_TIMEOUT_SECONDS": "2",
    "RESTYLE_RECONCILE_SECONDS": "0.8",
    "RESTYLE_POLL_TIMEOUT_SECONDS": "30",
}


@dataclass(frozen=True)
class Ended:
    """How a runner ended: with a Restyled, with an error, or by a signal (then ``status`` is negative)."""

    status: int
    restyled: Restyled | None = None
    error: str = ""
    message: str = ""

    @property
    def killed(self) -> bool:
        """Whether it got SIGKILL."""
        return self.status == -signal.SIGKILL


class Runners:
    """Starts runners."""

    def __init__(self, address: Path) -> None:
        self._address = address

    async def run(
        self,
        output: str,
        base_url: str,
        *options: str,
        image: Path | str = PHOTO,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Start one, and wait for its end. The options are those of tests/runner.py."""
        order = {"argv": [str(image), output, base_url, *options], "env": {**TIMES, **(env or {})}}
        reader, writer = await asyncio.open_unix_connection(self._address)
        writer.write(json.dumps(order).encode() + b"\n")
        try:
            said = await asyncio.wait_for(reader.read(), 90)
        except TimeoutError:
            return Ended(2, error="TimeoutError", message="still running after 90 s")
        finally:
            writer.close()
        *printed, status = [json.loads(line) for line in said.splitlines()]
        if not printed:
            return Ended(status)
        if "error" in printed[0]:
            return Ended(status, error=printed[0]["error"]["type"], message=printed[0]["error"]["message"])
        return Ended(status, Restyled.model_validate(printed[0]))


@contextmanager
def running() -> Iterator[Runners]:
    """A place to start runners from; whoever still runs at the end is killed."""
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "runners"
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.runners", address],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            assert process.stdout
            try:
                if not process.stdout.readline():
                    raise RuntimeError("the runners' process did not start: see above")
                yield Runners(address)
            finally:
                os.killpg(process.pid, signal.SIGKILL)


def serve(address: str) -> None:
    """Fork a runner for each connection, until standard input closes."""
    from tests.support import runner

    # botocore reads the same 2 MB of JSON in every process: once is enough.
    JSONFileLoader.load_file = cache(JSONFileLoader.load_file)  # type: ignore[method-assign]
    boto3.Session(region_name="us-east-1").client("s3")

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(1024)  # asyncio takes a connection refused for a full queue as made
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            _supervise(connection, runner.main)
        connection.close()


def _supervise(connection: socket.socket, main: Callable[[list[str]], int]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            os.environ.update(order["env"])
            os.dup2(connection.fileno(), 1)
            status = main(order["argv"])
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, how = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(how)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
