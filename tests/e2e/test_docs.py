"""What README.md and docs/ tell to type, typed: a page's commands in options, as its reader would.

README and the tutorial begin with nothing but a clone. The how-tos begin where README ends (the command is
found, there is a key, and a Prefect server), those of `DEPLOYED` need what docs/deploying.md sets up.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Literal
from urllib.parse import urlsplit

import pytest

from tests.support.doc_pages import DEPLOYED, PAGES, ROOT, blocks, script, shown
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import OFTEN, PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import free_port
from tests.support.s3_servers import S3Server, moto_server
from tests.support.terminal import open_terminal, plain

SECONDS = 500
REGION: Literal["eu-central-1"] = "eu-central-1"  # as the pages have it
DEPLOYING = ROOT / "docs/deploying.md"
FROM_NOTHING = [ROOT / "README.md", ROOT / "docs/tutorial.md"]
RUNNABLE = [page for page in PAGES if any(block.runs for block in blocks(page))]
HOW_TO = [page for page in RUNNABLE if page not in (*FROM_NOTHING, *DEPLOYED, DEPLOYING)]
WRONG = re.compile(r"Traceback|error: unexpected|panicked")
_RECORD = re.compile(r"^(?=\d\d:\d\d:\d\d\.\d{3} \|)", re.MULTILINE)  # of a Prefect log


def _keep(terminal: int, log: Path) -> None:
    """Write down what is shown on a terminal until its other end is closed."""
    with log.open("wb", buffering=0) as file, suppress(OSError):
        while said := os.read(terminal, 65536):
            file.write(said)
    os.close(terminal)


def wrong(said: str) -> list[str]:
    """What is wrong among what was said.

    On a machine as busy as that of tests, Prefect's clients now and then give up a WebSocket on which the
    server was silent for twenty seconds. They log a traceback, and connect again.
    """
    records = [record for record in _RECORD.split(said) if WRONG.search(record)]
    return [record[-6000:] for record in records if "keepalive ping timeout" not in record]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Reader:
    """A reader with a clone and a shell.

    Attributes:
        folder: of theirs: home and clone.
        env: all that the shell knows.
        stand_ins: texts of a page, and what stands in for them here.
    """

    folder: Path
    env: dict[str, str]
    stand_ins: dict[str, str]

    @property
    def said(self) -> str:
        """All that was said so far, by commands and by what they left running."""
        logs = [self.folder / "log", *sorted((self.folder / "clone").glob("*.log"))]
        said = "\n".join(log.read_text() for log in logs if log.exists())
        return plain(said).replace("\r\n", "\n")

    @contextmanager
    def typing(self, page: Path, then: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Type what a page tells, on a terminal; nothing that it started is left afterwards."""
        (self.folder / "home").mkdir(parents=True)
        clone = self.folder / "clone"
        clone.mkdir()
        for entry in ROOT.iterdir():
            shown = entry.is_dir() or entry.name == "prefect.yaml"
            if shown and entry.name not in (".git", ".venv", "demo", "pictures"):
                (clone / entry.name).symlink_to(entry)
        (clone / ".venv").symlink_to(sys.prefix)
        ours, theirs = open_terminal(200)  # what asks questions does so on terminals only
        process = subprocess.Popen(
            ["bash", "-c", script(page, self.stand_ins) + then],
            cwd=clone,
            env={**self.env, "HOME": str(self.folder / "home")},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        log = Thread(target=_keep, args=(ours, self.folder / "log"))
        log.start()
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # the shell ends what runs beside it
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            log.join(30)

    def follow(self, page: Path) -> None:
        """Type what a page tells; all of it works, and says what the page shows."""
        with self.typing(page) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
            status = process.returncode
        said = self.said
        assert status == 0, said[-6000:]
        assert not wrong(said)
        for line in shown(page):
            assert line.search(said), f"{page.name} shows what is not said: {line.pattern}"


@dataclass(frozen=True)
class World:
    """What readers find: an API that takes any key, and the buckets of the pages.

    Attributes:
        env: what a shell knows of it before anything is typed.
        emulator: its API.
        s3: its buckets.
        prefect: URL of the server that docs/deploying.md speaks of; None where a reader has none.
    """

    env: dict[str, str]
    emulator: Emulator
    s3: S3Server
    prefect: str | None = None

    def newcomer(self, folder: Path) -> Reader:
        """A reader with nothing but a clone."""
        prefect, emulator, receiver, queue = (free_port() for _ in range(4))
        stand_ins = {
            "prefect server start": f"prefect server start --port {prefect}",
            "127.0.0.1:4200": f"127.0.0.1:{prefect}",
            "127.0.0.1:8787": f"127.0.0.1:{emulator}",
            "--port 8787": f"--port {emulator}",
            "--port 8080": f"--port {receiver}",
            "127.0.0.1:8080": f"127.0.0.1:{receiver}",
            "restyle receiver --sqs": f"restyle receiver --port {queue} --sqs",
            "https://minio.example.com:9000": self.s3.endpoint,
            "https://sqs.eu-central-1.amazonaws.com": self.s3.endpoint,
        }
        if self.prefect:
            stand_ins["127.0.0.1:4200"] = urlsplit(self.prefect).netloc
        return Reader(folder, {**self.env, "WAVESPEED_BASE_URL": self.emulator.url}, stand_ins)

    def user(self, folder: Path) -> Reader:
        """A reader who has found the command and has a key, and knows the server where there is one."""
        reader = self.newcomer(folder)
        env = {
            **reader.env,
            "PATH": f"{sys.prefix}/bin{os.pathsep}{reader.env['PATH']}",
            "WAVESPEED_API_KEY": "some-key",
            **({"PREFECT_API_URL": self.prefect} if self.prefect else {}),
        }
        return replace(reader, env=env)


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """An S3 server of this file's own: the buckets' names are everybody's."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="module")
def world(moto: S3Server, emulator_process: Emulator, tmp_path_factory: pytest.TempPathFactory) -> World:
    """With buckets, queue, topic and role, and an `aws` that knows where they are."""
    client = moto.client()
    for bucket in ("my-bucket", "my-photos"):
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        for photo in (ROOT / "examples").glob("*.jpg"):
            client.upload_file(str(photo), bucket, f"in/{photo.name}")
    session, endpoint = moto.session(), moto.endpoint
    session.client("sqs", REGION, endpoint_url=endpoint).create_queue(QueueName="pictures")
    session.client("sns", REGION, endpoint_url=endpoint).create_topic(Name="pictures")
    roles = session.client("iam", endpoint_url=endpoint)
    roles.create_role(RoleName="restyle-worker", AssumeRolePolicyDocument="{}")
    command = tmp_path_factory.mktemp("bin") / "aws"
    installed = shutil.which("aws")
    assert installed, "Debian's package awscli is missing"
    command.write_text(f'#!/bin/sh\nexec {installed} --endpoint-url {moto.endpoint} "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    env = {
        **moto.env,
        "AWS_DEFAULT_REGION": REGION,
        "PATH": path,
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # a test is nobody's use of Prefect
        **OFTEN,
    }
    return World(env, emulator_process, moto)


@pytest.fixture(scope="module")
def deployed(
    world: World, prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The world after all of docs/deploying.md was typed; what that started still runs."""
    after = replace(world, prefect=prefect.url)
    deployer = after.user(tmp_path_factory.mktemp("deployer"))
    with deployer.typing(DEPLOYING, "echo all was typed\nwait\n") as process:
        wait_until(lambda: "all was typed" in deployer.said or process.poll() is not None, SECONDS)
        assert process.poll() is None, deployer.said[-6000:]
        yield after
        said = deployer.said  # before what runs there is ended, perhaps amid a flow
    assert not wrong(said)


@pytest.mark.parametrize("page", FROM_NOTHING, ids=_name)
def test_a_newcomer_with_nothing_but_a_clone_comes_to_its_end(
    page: Path, world: World, tmp_path: Path
) -> None:
    world.newcomer(tmp_path).follow(page)


@pytest.mark.parametrize("page", HOW_TO, ids=_name)
def test_a_how_to_works_for_who_has_the_command_and_a_key(
    page: Path, deployed: World, tmp_path: Path
) -> None:
    # With the server of the pages below: without one, every command starts its own, as README's do.
    deployed.user(tmp_path).follow(page)


@pytest.mark.parametrize("page", DEPLOYED, ids=_name)
def test_what_deploying_has_set_up_is_all_that_the_pages_after_it_need(
    page: Path, deployed: World, tmp_path: Path
) -> None:
    deployed.user(tmp_path).follow(page)
