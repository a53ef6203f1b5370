"""What README.md and docs/ tell to type, typed: a page's commands in order, in one empty folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.doc_pages import PAGES, ROOT, blocks, script
from tests.emulator_process import Emulator
from tests.prefect_server import PrefectServer
from tests.s3_servers import S3Server

pytestmark = pytest.mark.e2e

SECONDS = 600
RUNNABLE = [page for page in PAGES if any(block.runs for block in blocks(page))]


def _port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def buckets(moto: S3Server) -> S3Server:
    """The buckets that the pages speak of, with the photographs in one."""
    client = moto.client()
    for bucket in ("my-bucket", "my-photos"):
        client.create_bucket(Bucket=bucket)
    for photo in (ROOT / "examples").glob("*.jpg"):
        client.upload_file(str(photo), "my-photos", f"in/{photo.name}")
        client.upload_file(str(photo), "my-bucket", f"in/{photo.name}")
    moto.queues().create_queue(QueueName="pictures")
    return moto


@pytest.fixture(scope="module")
def deployed(
    lived_in_prefect: PrefectServer, emulator_process: Emulator, buckets: S3Server
) -> Mapping[str, str]:
    """An environment in which Prefect knows our deployments, as it does for whoever reads a how-to."""
    bin_folder = Path(sys.executable).parent
    env = {
        **lived_in_prefect.env,
        **buckets.env,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "WAVESPEED_API_KEY": "some-key",
        "WAVESPEED_BASE_URL": emulator_process.url,
    }
    setup = ["restyle", "setup", "--out", "s3://my-bucket/restyled"]
    deploy = ["prefect", "--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"]
    for command in (setup, deploy):
        subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=SECONDS)
    return env


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_works(
    page: Path, deployed: Mapping[str, str], buckets: S3Server, tmp_path: Path
) -> None:
    # what a page names, and what stands in for it here
    port, emulator, receiver = _port(), _port(), _port()
    substitutes = {
        "127.0.0.1:4200": f"127.0.0.1:{port}",
        "127.0.0.1:8787": f"127.0.0.1:{emulator}",
        "--port 8787": f"--port {emulator}",
        "--port 8080": f"--port {receiver}",
        "127.0.0.1:8080": f"127.0.0.1:{receiver}",
        "http://prefect.internal:4200/api": deployed["PREFECT_API_URL"],
        "https://minio.example.com:9000": buckets.endpoint,
        "restyle receiver --sqs": f"restyle receiver --port {_port()} --sqs",
        "https://sqs.eu-central-1.amazonaws.com": buckets.endpoint,
        "/var/lib/restyle": str(tmp_path / "lib"),
    }
    clone = tmp_path / "clone"  # as far as a reader needs one
    clone.mkdir()
    for name in ("examples", "deployments"):
        (clone / name).symlink_to(ROOT / name)
    (clone / ".venv").symlink_to(sys.prefix)
    home = tmp_path / ".prefect"  # a page that starts a server of its own has a database of its own
    prefect = {"PREFECT_HOME": str(home), "PREFECT_PROFILES_PATH": str(home / "profiles.toml")}
    env = {**deployed, **prefect, "HOME": str(tmp_path), "PREFECT_SERVER_API_PORT": port}

    log = tmp_path / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["bash", "-c", script(page, substitutes)],
            cwd=clone,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, log.read_text()[-4000:]
