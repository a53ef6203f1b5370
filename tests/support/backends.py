"""PostgreSQL and Redis for a Prefect server, from Debian's packages, on loopback, for one test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import end, wait_until
from tests.support.receivers import free_port

_OWNER = "nobody"  # PostgreSQL refuses to run as root


@contextmanager
def postgresql() -> Iterator[str]:
    """Run PostgreSQL with an empty database ``prefect``; gives its URL for Prefect."""
    (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    with _folder() as folder:
        _run(programs / "initdb", "--auth=trust", "--username=prefect", "--no-sync", folder / "data")
        port = free_port()
        # its data need not survive a crash of the machine
        options = {"listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": "200"}
        arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        server = [programs / "postgres", "-D", folder / "data", "-k", folder, "-p", str(port), *arguments]
        ready = [str(programs / "createdb"), "-h", str(folder), "-p", str(port), "-U", "prefect", "prefect"]
        with _running(folder / "log", *server):
            wait_until(lambda: not subprocess.run(ready, capture_output=True).returncode, 60)
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"


@contextmanager
def redis() -> Iterator[str]:
    """Run an empty Redis server; gives its URL."""
    with _folder() as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with _running(folder / "log", "redis-server", *options):
            wait_until(lambda: _listens(port), 60)
            yield f"redis://127.0.0.1:{port}/0"


def behind_prefect(database: str, redis: str) -> dict[str, str]:
    """The settings of a Prefect server that uses both, as in docs/scaling.md."""
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
        "PREFECT_REDIS_MESSAGING_URL": redis,
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": redis,  # it ignores the other one
        "PREFECT_SERVER_DOCKET_URL": redis,
    }


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="restyle-", dir="/tmp"))  # not pytest's: others cannot enter it
    if not os.geteuid():
        shutil.chown(folder, _OWNER)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(log: Path, *command: object) -> Iterator[None]:
    """Run a server; it also ends when this process is killed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "INT", *_as_owner(), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield
        finally:
            end(process, patience=5)


def _run(*command: object) -> None:
    subprocess.run(
        ["setpriv", "--pdeathsig", "INT", *_as_owner(), *map(str, command)], check=True, capture_output=True
    )


def _as_owner() -> list[str]:
    if os.geteuid():
        return []
    owner = pwd.getpwnam(_OWNER)
    return ["--reuid", str(owner.pw_uid), "--regid", str(owner.pw_gid), "--clear-groups"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
