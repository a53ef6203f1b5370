"""The command `restyle`, as a process: what it prints, where, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended, wait_until

_ROOT = Path(__file__).resolve().parent.parent
KEY = "key-that-nobody-may-see"


@dataclass
class Shell:
    """Runs `restyle image` with a key and the emulator's URL."""

    prefect: PrefectServer
    emulator: Emulator
    folder: Path

    def image(self, *options: str, env: Mapping[str, str] | None = None) -> Ended:
        known = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.emulator.url}
        return self.prefect.restyle("image", *options, env={**known, **(env or {})})


@pytest.fixture
def shell(prefect: PrefectServer, emulator: Emulator, tmp_path: Path) -> Shell:
    return Shell(prefect, emulator, tmp_path)


@dataclass(frozen=True)
class Mistake:
    """Something a user gets wrong, and what the line that tells it must say."""

    name: str
    says: tuple[str, ...]
    options: tuple[str, ...] = ()
    source: str = str(PHOTO)
    out: str = "out"
    env: Mapping[str, str] = field(default_factory=dict)
    refusal: int | None = None
    elsewhere: bool = False


MISTAKES = [
    Mistake("size out of range", ("--size 100*100", "256 to 1536"), ("--size", "100*100")),
    Mistake("size that is none", ("--size big", "1024*1024"), ("--size", "big")),
    Mistake("too many steps", ("--steps 51: must be 1 to 50",), ("--steps", "51")),
    Mistake("steps that are no number", ("--steps", "many"), ("--steps", "many")),
    Mistake("too much guidance", ("--guidance 21: must be 1 to 20",), ("--guidance", "21")),
    Mistake("no images", ("--num-images 0: must be 1 to 4",), ("--num-images", "0")),
    Mistake("seed out of range", ("--seed 2147483648: must be -1 to 2147483647",), ("--seed", "2147483648")),
    Mistake("unknown format", ("--format", "gif", "jpeg"), ("--format", "gif")),
    Mistake("seed and variant", ("variant 1", "seed"), ("--seed", "7", "--variant", "1")),
    Mistake("negative variant", ("variant -1: must be at least 0",), ("--variant", "-1")),
    Mistake("unknown option", ("--sized",), ("--sized", "256*256")),
    Mistake("missing file", ("gone.jpg", "no such file"), source="gone.jpg"),
    Mistake("not an image", ("pyproject.toml", "not an image"), source=str(_ROOT / "pyproject.toml")),
    Mistake("source of another kind", ("ftp://", "unsupported scheme"), source="ftp://example.com/a.jpg"),
    Mistake("output of another kind", ("gs://bucket", "unsupported scheme"), out="gs://bucket/a"),
    Mistake("output that is a file", ("pyproject.toml",), out=str(_ROOT / "pyproject.toml")),
    Mistake(
        "unreachable bucket",
        ("s3://bucket/a", "connection refused by http://127.0.0.1:9 (AWS_ENDPOINT_URL_S3)"),
        out="s3://bucket/a",
        env={
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        },
    ),
    Mistake("no AWS credentials", ("s3://bucket", "AWS_PROFILE"), out="s3://bucket/a"),
    Mistake(
        "http base_url",
        ("base_url", "https", "http://example.com"),
        env={"WAVESPEED_BASE_URL": "http://example.com"},
    ),
    Mistake("no key", ("WAVESPEED_API_KEY",), env={"WAVESPEED_API_KEY": ""}),
    Mistake("wrong key", ("key",), refusal=401),
    Mistake("no credits", ("credits",), refusal=402),
    Mistake("too dear", ("--max-cost-usd 0.01: this job costs 0.025 USD",), ("--max-cost-usd", "0.01")),
    Mistake("unknown block", ("wavespeed/nobody",), ("--wavespeed", "nobody")),
    Mistake("unknown output block", ("s3-bucket/nobody",), out="s3-bucket/nobody"),
    Mistake(
        "no Prefect server", ("Prefect", "127.0.0.1:9"), env={"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    ),
    Mistake("Prefect's API elsewhere", ("answers HTTP 404", "ends with /api"), elsewhere=True),
    Mistake("settings at odds", ("RESTYLE_LEASE_SECONDS",), env={"RESTYLE_LEASE_SECONDS": "60"}),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_one_line_and_bills_nothing(shell: Shell, mistake: Mistake) -> None:
    if mistake.refusal:
        refused = {"on": "submit", "fault": "refused", "status": mistake.refusal, "times": None}
        shell.emulator.faults([refused])
    out = str(shell.folder / "out") if mistake.out == "out" else mistake.out
    elsewhere = {"PREFECT_API_URL": shell.prefect.url.removesuffix("/api")} if mistake.elsewhere else {}
    ended = shell.image(mistake.source, "--out", out, *mistake.options, env={**elsewhere, **mistake.env})
    assert ended.status == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert [word for word in mistake.says if word not in ended.stderr] == []
    assert KEY not in ended.stderr
    assert shell.emulator.ledger()["billed"] == 0


def test_a_mistyped_option_is_json_where_json_is_asked_for(shell: Shell) -> None:
    ended = shell.image(str(PHOTO), "--out", "out", "--steps", "many", "--json")
    assert ended.status == 1
    error = json.loads(ended.stdout)["error"]
    assert (error["type"], error["retryable"], error["job_key"]) == ("InvalidRequestError", False, None)


def test_a_picture_is_told_in_a_few_lines(shell: Shell) -> None:
    ended = shell.image(str(PHOTO), "--out", str(shell.folder / "out"), "--size", "256*256")
    assert (ended.status, ended.stderr) == (0, "")
    picture, facts, record = ended.stdout.splitlines()
    assert Path(picture.split("  ")[0]).is_file()
    assert "256×256" in picture
    assert facts.startswith("0.025 USD, seed ")
    assert Path(record.removeprefix("record: ")).is_file()
    again = shell.image(str(PHOTO), "--out", str(shell.folder / "out"), "--size", "256*256")
    assert "nothing billed" in again.stdout
    assert shell.emulator.ledger()["billed"] == 1


def test_events_that_are_left_at_the_end_are_all_sent_and_nothing_is_said_of_them(
    prefect: PrefectServer,
) -> None:
    script = (
        "from prefect_wavespeed.deployments.prefect_runtime import quiet_run\n"
        "with quiet_run():\n"
        "    from prefect.events import emit_event\n"
        "    for n in range(20):\n"
        "        emit_event('left-at-the-end', {'prefect.resource.id': f'restyle.test.{n}'})\n"
    )
    assert prefect.python("-c", script).ended() == Ended(0, "", "")
    wait_until(lambda: len(prefect.events("left-at-the-end")) == 20)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["image", "--help"], ["emulator", "--help"], ["image", "x", "--out", "y", "--size", "1*1"]],
    ids=" ".join,
)
def test_prefect_is_not_imported_where_it_is_not_needed(arguments: list[str]) -> None:
    script = (
        "import sys; from prefect_wavespeed.deployments.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'prefect' not in sys.modules and 'boto3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, cwd=_ROOT)


def test_the_emulator_is_a_command(prefect: PrefectServer) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "prefect_wavespeed", "emulator", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=prefect.env,
    )
    with command:
        assert command.stdout
        assert command.stdout.readline().startswith("listening on http://127.0.0.1:")
        command.send_signal(signal.SIGINT)
        assert command.wait(10) == 0


@pytest.mark.e2e
class TestDemo:
    """`restyle demo` as a newcomer runs it: in an empty folder, with nothing set up."""

    def start(self, prefect: PrefectServer, folder: Path) -> Command:
        env = {k: v for k, v in prefect.env.items() if not k.startswith("PREFECT_")}
        return Command(["-c", _IN_FOLDER, str(folder)], env)

    def test_it_restyles_all_photographs_twice_and_bills_once(
        self, prefect: PrefectServer, tmp_path: Path
    ) -> None:
        ended = self.start(prefect, tmp_path).ended()
        assert (ended.status, ended.stderr) == (0, "")
        assert "first run: 4 predictions, 0.100 USD" in ended.stdout.replace("\n", " ")
        assert len(list((tmp_path / "demo" / "images").glob("*/1.jpeg"))) == 4
        assert started_here(tmp_path) == []
        again = self.start(prefect, tmp_path).ended()
        assert (again.status, again.stderr) == (0, "")

    def test_ctrl_c_leaves_no_process_behind(self, prefect: PrefectServer, tmp_path: Path) -> None:
        demo = self.start(prefect, tmp_path)
        wait_until(lambda: len(started_here(tmp_path)) >= 2)
        demo.send(signal.SIGINT)
        assert demo.ended().status == 130
        assert started_here(tmp_path) == []

    def test_somebody_elses_folder_is_left_alone(self, prefect: PrefectServer, tmp_path: Path) -> None:
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "mine.txt").write_text("mine")
        ended = self.start(prefect, tmp_path).ended()
        assert ended.status == 1
        assert ended.stderr.count("\n") == 1
        assert (tmp_path / "demo" / "mine.txt").read_text() == "mine"


_IN_FOLDER = (
    "import os, sys; os.chdir(sys.argv[1]); from prefect_wavespeed.deployments.cli.app import main;"
    "sys.exit(main(['demo']))"
)


def started_here(folder: Path) -> list[str]:
    """The processes that a demo in this folder has started, by their PREFECT_HOME."""
    mark = f"PREFECT_HOME={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes() and process.name != str(os.getpid()):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
