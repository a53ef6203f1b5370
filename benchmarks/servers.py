"""The emulator and the stores that a benchmark runs on, each a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from benchmarks.measured import LATENCY
from prefect_wavespeed.storage.open_store import open_store
from tests.support.ceph import PROGRAMS, CephGateway, ceph_gateway
from tests.support.emulator_process import Emulator
from tests.support.s3_servers import S3Server, moto_server


def emulator(latency: tuple[float, float] = LATENCY) -> Emulator:
    """An emulator that serves pictures made beforehand; predictions take so many seconds, evenly spread."""
    low, high = latency
    return Emulator("--prerendered", "--balance", "1000000", "--latency", str(low), str(high))


@dataclass(frozen=True)
class Place:
    """Where contenders store, each below a name of its own.

    Attributes:
        kind: what it is called in the table.
        root: a directory, or ``s3://bucket``.
        env: what a process needs in its environment to get there.
    """

    kind: str
    root: str
    env: dict[str, str] = field(default_factory=dict)

    def output(self, name: str) -> str:
        """Where the contender of that name stores."""
        return f"{self.root}/{name}"

    async def stored(self, name: str) -> int:
        """Pictures there that have a record beside them or below the same name."""
        os.environ.update(self.env)
        paths = {entry.path for entry in await open_store(self.output(name)).list("")}
        pictures = [path for path in paths if path.endswith(".jpeg")]
        return sum(
            path.replace(".jpeg", ".json") in paths or f"{path.rpartition('/')[0]}/metadata.json" in paths
            for path in pictures
        )


def servers() -> Iterator[tuple[str, S3Server]]:
    """S3 servers with an empty bucket, one after the other: moto, and Ceph where it is installed."""
    with moto_server() as moto:
        yield "moto", moto
    with place("ceph") as ceph:
        if ceph:
            endpoint, user = ceph.env["AWS_ENDPOINT_URL_S3"], CephGateway("")
            yield (
                ceph.kind,
                S3Server(endpoint, user.bucket, user.access_key, user.secret_key, user.region),
            )


@contextmanager
def place(kind: str) -> Iterator[Place | None]:
    """An empty place of a kind: directory or ceph; None, and a line that says so, where there is no Ceph."""
    if kind == "directory":
        with TemporaryDirectory() as folder:
            yield Place("a directory", str(Path(folder) / "out"))
    elif missing := [program for program in PROGRAMS if which(program) is None]:
        print(f"no Ceph gateway: {', '.join(missing)} not found (tests/ceph-rgw.sh install)")
        yield None
    else:
        with ceph_gateway() as gateway:
            yield Place("a Ceph gateway", f"s3://{gateway.bucket}", gateway.env)
