"""The receiver as a process of its own, for tests."""

from __future__ import annotations

import os
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, wait_until

TOKEN = "a-token-of-senders"


@dataclass
class Receiving:
    """A receiver that listens.

    Attributes:
        http: for requests to it, which have no token unless one is added.
    """

    url: str
    command: Command
    http: httpx.Client = field(repr=False)

    def notify(self, body: object, *, token: str = TOKEN) -> httpx.Response:
        """Post a notification to ``/s3``."""
        return self.http.post("/s3", json=body, headers={"Authorization": f"Bearer {token}"})


@contextmanager
def receiving(
    prefect: PrefectServer, *options: str, env: Mapping[str, str] | None = None, port: int | None = None
) -> Iterator[Receiving]:
    """A receiver that hands what comes to this Prefect server; nothing is left of it afterwards."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = prefect.python(
        "-m", "tests.support.receivers", "--port", str(port), *options,
        env={"RESTYLE_RECEIVER_TOKEN": TOKEN, **(env or {})},
    )  # fmt: skip
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:

        def listens() -> bool:
            if not command.running:
                raise RuntimeError(f"the receiver did not start: {command.ended()}")
            with suppress(httpx.TransportError):
                return http.get("/metrics").status_code == 200
            return False

        try:
            wait_until(listens)
            yield Receiving(url, command, http)
        finally:
            if command.running:
                command.process.kill()
                command.ended()


def free_port() -> int:
    """A free port outside the range of outgoing connections, so that it stays free for long."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def serve(*options: str) -> int:
    """Run `restyle receiver` to its end, or until the parent process is gone."""
    parent = os.getppid()

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))  # as on most machines
    from prefect_wavespeed.deployments.cli.app import main

    return main(["receiver", *options])


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
