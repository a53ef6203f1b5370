"""The command line: errors are one line, results go to stdout, and Prefect is imported only when needed."""

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
from tests.support.in_process import restyle
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command, Ended, running_with, wait_until

_ROOT = Path(__file__).resolve().parent.parent
KEY = "key-that-nobody-may-see"


@dataclass(frozen=True)
class Mistake:
    """A mistake of a user, and what the error line must contain."""

    name: str
    expected: tuple[str, ...]
    options: tuple[str, ...] = ()
    source: str = str(PHOTO)
    out: str = "out"
    env: Mapping[str, str] = field(default_factory=dict)
    refusal: int | None = None
    api_path: str = "/api"


MISTAKES = [
    Mistake("size out of range", ("--size 100*100", "256 to 1536"), ("--size", "100*100")),
    Mistake("invalid size", ("--size big", "1024*1024"), ("--size", "big")),
    Mistake("too many steps", ("--steps 51: must be 1 to 50",), ("--steps", "51")),
    Mistake("steps that are not a number", ("--steps", "many"), ("--steps", "many")),
    Mistake("too much guidance", ("--guidance 21: must be 1 to 20",), ("--guidance", "21")),
    Mistake("no images", ("--num-images 0: must be 1 to 4",), ("--num-images", "0")),
    Mistake("seed out of range", ("--seed 2147483648: must be -1 to 2147483647",), ("--seed", "2147483648")),
    Mistake("unknown format", ("--format", "gif", "jpeg"), ("--format", "gif")),
    Mistake("seed and variant", ("variant 1", "seed"), ("--seed", "7", "--variant", "1")),
    Mistake("negative variant", ("variant -1: must be at least 0",), ("--variant", "-1")),
    Mistake("cap of nothing", ("--max-cost-usd 0: give an amount above 0",), ("--max-cost-usd", "0")),
    Mistake("mistyped option", ("--sized. Did you mean --size? See",), ("--sized", "256*256")),
    Mistake("unknown option", ("Unknown option: --foo. See",), ("--foo", "x")),
    Mistake("prompt", ("--prompt. wavespeed-ai/flux-redux-dev takes no prompt: ",), ("--prompt", "x")),
    Mistake("missing file", ("gone.jpg", "no such file"), source="gone.jpg"),
    Mistake("not an image", ("pyproject.toml", "not an image"), source=str(_ROOT / "pyproject.toml")),
    Mistake("unsupported source", ("ftp://", "unsupported scheme"), source="ftp://example.com/a.jpg"),
    Mistake("unsupported output", ("gs://bucket", "unsupported scheme"), out="gs://bucket/a"),
    Mistake("mistyped bucket", ("--out s3:/bucket/a: did you mean s3://bucket/a?",), out="s3:/bucket/a"),
    Mistake("mistyped block", ("--out s3-buckets/a: did you mean s3-bucket/a?",), out="s3-buckets/a"),
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
    Mistake("inconsistent settings", ("RESTYLE_LEASE_SECONDS",), env={"RESTYLE_LEASE_SECONDS": "60"}),
    Mistake(
        "http base_url",
        ("WAVESPEED_BASE_URL must be https, or http on loopback: not http://example.com",),
        env={"WAVESPEED_BASE_URL": "http://example.com"},
    ),
]
"""Found before Prefect is started."""

MISTAKES_OF_A_RUN = [
    Mistake("no key here nor in Prefect", ("WAVESPEED_API_KEY",), env={"WAVESPEED_API_KEY": ""}),
    Mistake("wrong key", ("key",), refusal=401),
    Mistake("no credits", ("credits",), refusal=402),
    Mistake("too expensive", ("--max-cost-usd 0.01: this job costs 0.025 USD",), ("--max-cost-usd", "0.01")),
    Mistake("unknown block", ("wavespeed/nobody",), ("--wavespeed", "nobody")),
    Mistake("unknown output block", ("s3-bucket/nobody",), out="s3-bucket/nobody"),
    Mistake("wrong path of Prefect's API", ("answers HTTP 404", "ends with /api"), api_path=""),
]


def assert_one_line(ended: Ended, mistake: Mistake) -> None:
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert [part for part in mistake.expected if part not in ended.stderr] == []
    assert KEY not in ended.stderr


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_one_line(mistake: Mistake, tmp_path: Path) -> None:
    out = str(tmp_path / "out") if mistake.out == "out" else mistake.out
    env = {"WAVESPEED_API_KEY": KEY, **mistake.env}
    ended = restyle("image", mistake.source, "--out", out, *mistake.options, env=env)
    assert_one_line(ended, mistake)


@pytest.mark.parametrize("mistake", MISTAKES_OF_A_RUN, ids=lambda mistake: mistake.name)
def test_an_error_of_a_run_is_one_line_and_bills_nothing(
    mistake: Mistake, prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    if mistake.refusal:
        emulator.faults([{"on": "submit", "fault": "refused", "status": mistake.refusal, "times": None}])
    ended = restyle(
        *("image", mistake.source, *mistake.options),
        *("--out", str(tmp_path / "out") if mistake.out == "out" else mistake.out),
        prefect=prefect,
        api_url=prefect.url.removesuffix("/api") + mistake.api_path,
        env={"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": emulator.url, **mistake.env},
    )
    assert_one_line(ended, mistake)
    assert emulator.ledger()["billed"] == 0


@pytest.mark.e2e
def test_prefects_log_of_a_run_that_fails_stays_off_the_terminal(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    env = {"WAVESPEED_API_KEY": "", "WAVESPEED_BASE_URL": emulator.url}
    image = ("image", str(PHOTO), "--out", str(tmp_path / "out"))
    assert_one_line(prefect.restyle(*image, env=env), Mistake("no key", ("WAVESPEED_API_KEY",)))
    away = {**env, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    assert_one_line(prefect.restyle(*image, env=away), Mistake("no server", ("Prefect", "127.0.0.1:9")))


def test_with_json_a_mistyped_option_is_json() -> None:
    ended = restyle("image", str(PHOTO), "--out", "out", "--steps", "many", "--json")
    assert ended.status == 1
    error = json.loads(ended.stdout)["error"]
    assert (error["type"], error["retryable"], error["job_key"]) == ("InvalidRequestError", False, None)


def test_a_mistyped_command_gets_a_guess_or_the_list_of_commands() -> None:
    assert "no command imgae: did you mean image?" in restyle("imgae").stderr
    assert "the commands are backfill, batch, completion, costs, " in restyle("xyz").stderr


def test_a_picture_is_described_in_a_few_lines(
    prefect: PrefectServer, emulator: Emulator, tmp_path: Path
) -> None:
    image = ("image", str(PHOTO), "--out", str(tmp_path / "out"), "--size", "256*256")
    env = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": emulator.url}
    ended = prefect.restyle(*image, env=env)
    assert (ended.status, ended.stderr) == (0, f"created directory {tmp_path / 'out'}\n")
    picture, details, record = ended.stdout.splitlines()
    assert Path(picture.split("  ")[0]).is_file()
    assert "256×256" in picture
    assert details.startswith("0.025 USD, seed ")
    assert Path(record.removeprefix("record: ")).is_file()
    again = restyle(*image, prefect=prefect, env=env)
    assert "nothing billed" in again.stdout
    assert emulator.ledger()["billed"] == 1


def test_events_pending_at_exit_are_all_sent_without_a_warning(
    prefect: PrefectServer,
) -> None:
    script = (
        "from prefect_wavespeed.deployments.prefect_runtime import quiet_run\n"
        "with quiet_run():\n"
        "    from prefect.events import emit_event\n"
        "    for n in range(20):\n"
        "        emit_event('pending-at-exit', {'prefect.resource.id': f'restyle.test.{n}'})\n"
    )
    assert prefect.python("-c", script).ended() == Ended(0, "", "")
    wait_until(lambda: len(prefect.events("pending-at-exit")) == 20)


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


@pytest.mark.e2e  # a dozen processes
@pytest.mark.parametrize(("command", "status"), [("--version", 0), ("show x --json --out .", 1)])
def test_the_status_does_not_depend_on_who_reads(command: str, status: int, tmp_path: Path) -> None:
    script = f"""
        restyle() {{ {sys.executable} -m prefect_wavespeed {command} "$@"; }}
        restyle | true; said=${{PIPESTATUS[0]}}
        restyle 2>&1 | true; said="$said ${{PIPESTATUS[0]}}"
        restyle >&-; said="$said $?"
        restyle >&- 2>&- <&-; echo "$said $?"
    """
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    ended = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split()[-4:] == [str(status)] * 4
    assert set(ended.stderr.splitlines()) == {
        *ended.stderr.splitlines()[:1]
    }  # its one error, where there is one


def test_output_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "prefect_wavespeed", "--version"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    says = "error: No space left on device: what the command prints is lost\n"
    assert (ended.returncode, ended.stderr) == (1, says)


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
    """`restyle demo` as a newcomer stops it; tests/e2e/test_wheel.py runs it to its end."""

    def start(self, prefect: PrefectServer, folder: Path) -> Command:
        env = {k: v for k, v in prefect.env.items() if not k.startswith("PREFECT_")}
        return Command(["-m", "prefect_wavespeed", "demo"], env, cwd=folder)

    def test_ctrl_c_leaves_no_process_behind(self, prefect: PrefectServer, tmp_path: Path) -> None:
        demo = self.start(prefect, tmp_path)
        wait_until(lambda: len(running_with(f"PREFECT_HOME={tmp_path}")) >= 2)
        demo.send(signal.SIGINT)
        assert demo.ended().status == 130
        assert running_with(f"PREFECT_HOME={tmp_path}") == []

    def test_a_folder_that_no_demo_made_is_left_alone(self, prefect: PrefectServer, tmp_path: Path) -> None:
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "mine.txt").write_text("mine")
        ended = self.start(prefect, tmp_path).ended()
        assert ended.status == 1
        assert ended.stderr.count("\n") == 1
        assert (tmp_path / "demo" / "mine.txt").read_text() == "mine"
