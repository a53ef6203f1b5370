"""The command `restyle batch`, as a process: what it prints, where, and its exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_wavespeed.batch.report.rows import Summary, decode_part
from tests.support.batch_shell import Shell, one_line, told
from tests.support.batches import pictures, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.e2e  # processes and servers by the dozen

NO_PREFECT = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}


@pytest.fixture(scope="module")
def prerendered() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.2", "0.3") as running:
        yield running


@pytest.fixture
def shell(prefect: PrefectServer, prerendered: Emulator, tmp_path: Path) -> Shell:
    prerendered.reset()
    return Shell(prefect, prerendered, tmp_path)


# --- what is refused ---


@dataclass(frozen=True)
class Mistake:
    """A manifest, or an option, that cannot be used, and what the line that tells it must say."""

    name: str
    says: tuple[str, ...]
    make: Callable[[Path], object] = lambda path: write_manifest(path, pictures(3))
    file: str = "m.jsonl"
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def _wrong_column(path: Path) -> None:
    write_manifest(path, [{"imge": row["image"]} for row in pictures(3)])


def _bad_json_in_row_7(path: Path) -> None:
    lines = [json.dumps(row) for row in pictures(10)]
    lines[6] = lines[6].replace('"id":', '"id"')
    path.write_text("\n".join(lines))


def _wrong_types(path: Path) -> None:
    images = [row["image"] for row in pictures(3)]
    pq.write_table(pa.table({"image": images, "seed": ["7", "8", "9"]}), path)


def _some_bad(path: Path) -> None:
    rows = pictures(20)
    write_manifest(path, [{**row, "size": "9*9"} if n % 10 == 5 else row for n, row in enumerate(rows)])


def _many_bad(path: Path) -> None:
    write_manifest(path, pictures(600, size="9*9"))


MISTAKES = [
    Mistake("wrong column", ("row 1: column", '"imge"', "did you mean 'image'?"), _wrong_column),
    Mistake(
        "wrong column of a table",
        ('column "img" is not known', "'image'"),
        lambda path: path.write_text("img,id\na.jpg,1\n"),
        "m.csv",
    ),
    Mistake("bad JSON in row 7", ("1 of 10 rows", "row 7: not JSON"), _bad_json_in_row_7),
    Mistake("empty file", ("m.jsonl", "it has no rows"), Path.touch),
    Mistake("a directory", ("m.jsonl", "a directory", "s3://bucket/prefix/"), Path.mkdir),
    Mistake("missing file", ("m.jsonl", "no such file"), lambda path: None),
    Mistake("file of another kind", ("m.txt", ".jsonl", ".parquet"), Path.touch, "m.txt"),
    Mistake(
        "Parquet with wrong types", ("column 'seed'", "string", "a whole number"), _wrong_types, "m.parquet"
    ),
    Mistake(
        "no Parquet at all",
        ("m.parquet", "not a whole Parquet file"),
        lambda path: path.write_text("image"),
        "m.parquet",
    ),
    Mistake(
        "a tenth of the rows is bad",
        ("2 of 20 rows", "row 6: size", "row 16: size", "skip them with --on-bad-row skip;"),
        _some_bad,
    ),
    Mistake(
        "all of many rows are bad",
        ("500 of the first 500 rows", "row 5: size", "and 495 more"),
        _many_bad,
    ),
    Mistake("no place in flight", ("--concurrency 0: must be at least 1",), options=("--concurrency", "0")),
    Mistake("no money", ("--max-cost-usd 0: must be greater than 0",), options=("--max-cost-usd", "0")),
    Mistake("no amount", ("--max-cost-usd nan: must be a finite number",), options=("--max-cost-usd", "nan")),
    Mistake("more than all", ("--max-failed 1.5: must be at most 1",), options=("--max-failed", "1.5")),
    Mistake("another policy", ("--on-bad-row", "fail", "skip"), options=("--on-bad-row", "ignore")),
    Mistake("size out of range", ("--size 9*9", "256 to 1536"), options=("--size", "9*9")),
    Mistake("unknown option", ("--parallel",), options=("--parallel", "5")),
    Mistake("output of another kind", ("gs://bucket", "not supported"), options=("--out", "gs://bucket/a")),
    Mistake("settings at odds", ("RESTYLE_LEASE_SECONDS",), env={"RESTYLE_LEASE_SECONDS": "6"}),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_one_line_before_prefect_is_asked_anything(shell: Shell, mistake: Mistake) -> None:
    path = shell.folder / mistake.file
    mistake.make(path)
    said = one_line(shell.batch(str(path), *mistake.options, env={**NO_PREFECT, **mistake.env}))
    assert [word for word in mistake.says if word not in said] == []
    assert "Prefect" not in said
    assert shell.emulator.ledger()["calls"]["submit"] == 0


def test_a_manifest_that_is_not_where_it_should_be_is_one_line(shell: Shell, moto: S3Server) -> None:
    env = {**NO_PREFECT, **moto.env}
    url = f"{shell.emulator.url}/nowhere/m.jsonl"
    assert f"manifest {url}: HTTP 404" in one_line(shell.batch(f"{url}?X-Amz-Signature=secret", env=env))
    key = f"s3://{moto.bucket}/nowhere/m.jsonl"
    assert f"manifest {key}: no such object" in one_line(shell.batch(key, env=env))


@pytest.mark.parametrize("skip", [False, True], ids=["fail", "skip"])
def test_pictures_that_are_missing_are_told_with_their_rows(shell: Shell, skip: bool) -> None:
    gone = str(shell.folder / "gone.jpg")
    manifest = shell.manifest([{"image": gone, "id": "gone"}, {"image": gone, "variant": 1}])
    said = one_line(shell.batch(manifest, *(["--on-bad-row", "skip"] if skip else [])))
    assert f"2 of 2 rows cannot be used: row 1: no such file: image {gone}" in said
    assert "mend them; nothing was submitted" in said
    assert shell.emulator.ledger()["calls"]["submit"] == 0


def test_bad_rows_that_are_skipped_are_in_the_report(shell: Shell) -> None:
    _some_bad(shell.folder / "m.jsonl")
    ended = shell.batch(str(shell.folder / "m.jsonl"), "--on-bad-row", "skip", "--json")
    assert (ended.status, told(ended)) == (0, "")
    summary = Summary.model_validate_json(ended.stdout)
    assert summary.counts == {"stored": 18, "invalid": 2}
    bad = [row for row in shell.report(summary) if row.status == "invalid"]
    assert [(row.row, row.id) for row in bad] == [(6, "n6"), (16, "n16")]
    assert all('size "9*9"' in (row.error_message or "") for row in bad)
    assert shell.emulator.ledger()["billed"] == 18


def test_what_costs_too_much_is_refused_with_the_figures(shell: Shell) -> None:
    said = one_line(shell.batch(shell.manifest(pictures(10)), "--max-cost-usd", "0.2"))
    assert "--max-cost-usd 0.2: 10 images to bill cost 0.25 USD" in said
    assert shell.emulator.ledger()["calls"]["submit"] == 0


def test_an_error_is_json_where_json_is_asked_for(shell: Shell) -> None:
    ended = shell.batch(str(shell.folder / "gone.jsonl"), "--json", env=NO_PREFECT)
    assert (ended.status, ended.stderr) == (1, "")
    error = json.loads(ended.stdout)["error"]
    assert (error["type"], error["retryable"]) == ("ManifestError", False)


def test_more_failures_than_allowed_are_one_line_after_all_else_is_stored(shell: Shell) -> None:
    failing = {"on": "prediction", "fault": "failed", "code": 1402, "times": None}
    shell.emulator.faults([{**failing, "match": {"image": "/2.jpg"}}])
    manifest = shell.manifest(pictures(5))
    said = one_line(shell.batch(manifest))
    assert "1 of 5 rows failed (1 PredictionFailedError), more than --max-failed 0 allows" in said
    assert "4 are stored" in said
    tolerant = shell.batch(manifest, "--max-failed", "0.2")
    assert tolerant.status == 0
    assert tolerant.stdout.startswith("5 rows: 4 done, 1 failed\n")
    assert shell.emulator.ledger()["billed"] == 4


# --- what it says ---


def test_a_dry_run_tells_what_would_be_billed_and_spends_nothing(shell: Shell) -> None:
    assert shell.batch(shell.manifest(pictures(3), "few.jsonl")).status == 0
    shell.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1402}])
    assert shell.batch(shell.manifest(pictures(4)[3:], "failing.jsonl")).status == 1
    assert shell.batch(shell.manifest(pictures(5)[4:], "open.jsonl"), "--no-wait").status == 0
    submissions = shell.emulator.ledger()["calls"]["submit"]
    manifest = shell.manifest([*pictures(8), *pictures(1), {"image": "gone.jpg"}])
    options = [manifest, "--dry-run", "--on-bad-row", "skip", "--max-cost-usd", "0.05"]

    ended = shell.batch(*options)
    assert (ended.status, told(ended)) == (0, "")
    assert ended.stdout.splitlines() == [
        "10 rows, 8 different images to make, 1 bad row skipped",
        "3 are stored already",
        "1 is open: taken up, billed only if it failed",
        "1 is given up: not billed without --retry-failed",
        "3 would be billed: 0.075 USD",
        "balance: 99.9 USD",
        "--max-cost-usd: 0.05 USD: not enough",
        "at least 2 rows cannot be restyled: more than --max-failed 0 allows, so it would fail",
        "nothing was spent",
    ]
    assert json.loads(shell.batch(*options, "--json").stdout) == {
        "rows": 10,
        "invalid": 0,
        "unusable": 1,
        "jobs": 8,
        "done": 3,
        "open": 1,
        "failed": 1,
        "billed": 3,
        "usd": pytest.approx(0.075),
        "balance_usd": pytest.approx(99.9),
    }
    assert shell.emulator.ledger()["calls"]["submit"] == submissions
    assert len(list((shell.folder / "out" / "runs").glob("dt=*/*"))) == 3  # those that were not dry


def test_what_came_of_it_is_three_lines_or_an_object(shell: Shell) -> None:
    manifest = shell.manifest([*pictures(4), *pictures(1)])
    ended = shell.batch(manifest)
    assert (ended.status, told(ended)) == (0, "")
    counts, pace, report = ended.stdout.splitlines()
    assert counts == "5 rows: 5 stored"
    assert re.fullmatch(r"4 pictures stored in [\d.]+ s, [\d,]+ a minute; 0\.1 USD spent", pace)
    folder = Path(report.removeprefix("report: "))
    names = ["gallery.html", "manifest.jsonl", "manifest.parquet", "summary.json"]
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == names

    again = shell.batch(manifest, "--json")
    assert (again.status, told(again)) == (0, "")
    assert again.stdout.count("\n") == 1
    summary = Summary.model_validate_json(again.stdout)
    assert (summary.counts, summary.spent_usd) == ({"done": 5}, 0)
    stored = json.loads((Path(summary.report) / "summary.json").read_text())
    assert json.loads(again.stdout) == stored
    assert shell.emulator.ledger()["billed"] == 4


def test_where_there_is_no_terminal_a_plain_line_now_and_then_tells_how_it_goes(shell: Shell) -> None:
    slow = {"on": "prediction", "fault": "slow", "seconds": 11, "match": {"image": "/1.jpg"}}
    shell.emulator.faults([slow])
    ended = shell.batch(shell.manifest(pictures(3)))
    assert ended.status == 0
    assert "of 3 rows, " in ended.stderr
    assert told(ended) == ""


def test_a_terminal_shows_a_bar_that_moves_and_no_log(shell: Shell) -> None:
    manifest = shell.manifest(pictures(16))
    command = [
        sys.executable,
        "-m",
        "prefect_wavespeed",
        "batch",
        manifest,
        "--out",
        shell.out,
    ]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, "--size", "256*256", "--concurrency", "2"],
        env={**shell.prefect.env, **shell.env, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    with process:
        os.close(theirs)
        shown = _read_all(ours)
        assert process.stdout
        said = process.stdout.read().decode()
    assert process.returncode == 0
    assert said.startswith("16 rows: 16 stored\n")
    counts = [int(count) for count in re.findall(r"(\d+)/16", shown)]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 3
    assert "restyling" in shown
    assert re.search(r"\d/min", shown)
    assert re.search(r"0\.\d\d USD", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)  # the time left
    for word in ("INFO", "WARNING", "ERROR", "prefect", "Task run", "Flow run"):
        assert word not in shown
    assert shown.rstrip().endswith("\x1b[2K")  # it leaves nothing behind


def _read_all(terminal: int) -> str:
    """What is written to a terminal until nobody holds it any more."""
    shown = bytearray()
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux's way to say so
            data = b""
        if not data:
            os.close(terminal)
            return shown.decode()
        shown += data


# --- what is left to others ---


def test_what_is_submitted_without_waiting_is_finished_by_settle_and_billed_once(shell: Shell) -> None:
    ended = shell.batch(shell.manifest(pictures(6)), "--no-wait", "--concurrency", "3", "--json")
    assert (ended.status, told(ended)) == (0, "")
    summary = Summary.model_validate_json(ended.stdout)
    assert summary.counts == {"submitted": 6}
    assert all(row.prediction_id for row in shell.report(summary))
    assert shell.emulator.ledger()["max_in_flight"] <= 3

    settled = shell.prefect.restyle("settle", "--out", shell.out, "--json", env=shell.env)
    assert (settled.status, settled.stderr) == (0, "")
    assert json.loads(settled.stdout)["stored"] == 6
    again = shell.batch(shell.manifest(pictures(6)))
    assert again.stdout.startswith("6 rows: 6 done\n")
    assert shell.emulator.ledger()["billed"] == 6


def test_interrupted_it_is_one_line_and_the_same_again_finishes(shell: Shell) -> None:
    shell.emulator.faults([{"on": "prediction", "fault": "slow", "seconds": 1, "times": None}])
    manifest = shell.manifest(pictures(40))
    running = shell.start(manifest, "--concurrency", "4")
    wait_until(lambda: shell.stored() >= 6 or not running.running)
    running.send(signal.SIGINT)
    one_line(running.ended(), 130, "interrupted: run the same command again")
    before = shell.stored()
    assert 6 <= before < 40
    parts = [part.read_bytes() for part in (shell.folder / "out").glob("runs/*/*/parts/*.jsonl")]
    assert sum(row.status == "stored" for part in parts for row in decode_part(part)) >= 6

    shell.emulator.faults([])
    again = shell.batch(manifest, "--json")
    assert again.status == 0, again
    counts = Summary.model_validate_json(again.stdout).counts
    assert counts == {"done": before, "stored": 40 - before}
    assert shell.emulator.ledger()["billed"] == 40
