"""The command `restyle batch`, as a process: what it prints, where, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.report.rows import Summary
from tests.support.batch_shell import Shell, one_line, without_progress
from tests.support.batches import pictures, restyle_all
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.records import report_rows

pytestmark = pytest.mark.e2e  # processes and servers by the dozen


@pytest.fixture(scope="module")
def prerendered() -> Iterator[Emulator]:
    with Emulator("--prerendered", "--latency", "0.2", "0.3") as running:
        yield running


@pytest.fixture
def shell(prefect: PrefectServer, prerendered: Emulator, tmp_path: Path) -> Shell:
    prerendered.reset()
    return Shell(prefect, prerendered, tmp_path)


# --- what is refused ---


def test_pictures_that_are_missing_are_reported_with_their_rows(shell: Shell) -> None:
    gone = str(shell.folder / "gone.jpg")
    manifest = shell.manifest([{"image": gone, "id": "gone"}, {"image": gone, "variant": 1}])
    output = one_line(shell.batch(manifest, "--on-bad-row", "skip"))
    assert f"2 of 2 rows cannot be used: row 1: no such file: image {gone}" in output
    assert "fix them; nothing was submitted" in output
    assert shell.emulator.ledger()["calls"]["submit"] == 0


def test_more_failures_than_allowed_are_one_line_after_all_else_is_stored(shell: Shell) -> None:
    failing = {"on": "prediction", "fault": "failed", "code": 1402, "times": None}
    shell.emulator.faults([{**failing, "match": {"image": "/2.jpg"}}])
    manifest = shell.manifest(pictures(5))
    output, *details = without_progress(failed := shell.batch(manifest)).splitlines()
    assert (failed.status, failed.stdout) == (1, "")
    assert details[0] == "  5 rows: 4 stored, 1 failed"
    assert "4 pictures stored in " in details[1]
    assert details[-2] == "  1 failed: internal error (code 1402): n2"
    assert details[-1].startswith(f"  every row: restyle failures --out {shell.out} --run ")
    assert "1 of 5 rows failed (1 PredictionFailedError), more than --max-failed 0 allows" in output
    assert "allows; 4 stored, 1 failed; the report is in" in output
    again = shell.batch(manifest)  # what an earlier run gave up is no failure of this one
    assert again.status == 0
    assert again.stdout.startswith("5 rows: 4 stored earlier, 1 given up earlier\n")
    assert "--retry-failed tries again" in again.stdout
    assert shell.emulator.ledger()["billed"] == 4


# --- what it prints ---


async def test_a_dry_run_reports_what_would_be_billed_and_spends_nothing(shell: Shell) -> None:
    small = ReduxParams(size="256*256")

    async def before(rows: list[dict[str, Any]], **options: Any) -> None:
        """What an earlier batch left in the output."""
        manifest = shell.manifest(rows, "before.jsonl")
        await restyle_all(shell.emulator.url, shell.out, manifest, BatchOptions(params=small, **options))

    await before(pictures(3))
    shell.emulator.faults([{"on": "prediction", "fault": "failed", "code": 1402}])
    await before(pictures(4)[3:])
    await before(pictures(5)[4:], wait=False)
    submissions = shell.emulator.ledger()["calls"]["submit"]
    manifest = shell.manifest([*pictures(8), *pictures(1), {"image": "gone.jpg"}])
    options = [manifest, "--dry-run", "--on-bad-row", "skip", "--max-cost-usd", "0.05"]

    ended = await asyncio.to_thread(shell.batch, *options)
    assert (ended.status, without_progress(ended)) == (0, "")
    assert ended.stdout.splitlines() == [
        "10 rows, 8 distinct images to make, 1 bad row skipped",
        "3 are stored already",
        "1 is open: joined, billed again only if failed",
        "1 given up earlier: --retry-failed tries again",
        "3 would be billed: 0.075 USD",
        "balance: 99.9 USD",
        "--max-cost-usd: 0.05 USD: not enough",
        "at least 1 row cannot be restyled: more than --max-failed 0 allows, so it would fail",
        "nothing was spent",
    ]
    ended = await asyncio.to_thread(shell.batch, *options, "--json")
    assert json.loads(ended.stdout) == {
        "rows": 10,
        "invalid": 0,
        "unusable": 1,
        "left_out": {},
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


def test_the_outcome_is_three_lines_or_an_object(shell: Shell) -> None:
    manifest = shell.manifest([*pictures(4), *pictures(1)])
    ended = shell.batch(manifest)
    assert (ended.status, without_progress(ended)) == (0, "")
    counts, pace, report = ended.stdout.splitlines()
    assert counts == "5 rows: 5 stored"
    assert re.fullmatch(r"4 pictures stored in [\d.]+ s, [\d,]+ a minute; 0\.1 USD spent", pace)
    folder = Path(report.removeprefix("report: "))
    names = ["gallery.html", "report.jsonl", "report.parquet", "summary.json"]
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == names

    again = shell.batch(manifest, "--json")
    assert (again.status, without_progress(again)) == (0, "")
    assert again.stdout.count("\n") == 1
    summary = Summary.model_validate_json(again.stdout)
    assert (summary.counts, summary.spent_usd) == ({"done": 5}, 0)
    stored = json.loads((Path(summary.report) / "summary.json").read_text())
    assert json.loads(again.stdout) == stored
    assert shell.emulator.ledger()["billed"] == 4


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
        output = process.stdout.read().decode()
    assert process.returncode == 0
    assert output.startswith("16 rows: 16 stored\n")
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
    """What is written to a terminal until it is closed."""
    shown = bytearray()
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # closed, on Linux
            data = b""
        if not data:
            os.close(terminal)
            return shown.decode()
        shown += data


# --- what it leaves behind ---


def test_what_is_submitted_without_waiting_is_stored_by_settle_and_billed_once(shell: Shell) -> None:
    ended = shell.batch(shell.manifest(pictures(6)), "--no-wait", "--concurrency", "3", "--json")
    assert (ended.status, without_progress(ended)) == (0, "")
    summary = Summary.model_validate_json(ended.stdout)
    assert summary.counts == {"submitted": 6}
    assert all(row.prediction_id for row in shell.report(summary))
    assert shell.emulator.ledger()["max_in_flight"] <= 3

    settled = shell.prefect.restyle("settle", "--out", shell.out, "--json", env=shell.env)
    assert (settled.status, settled.stderr) == (0, "")
    assert json.loads(settled.stdout)["stored"] == 6
    assert shell.emulator.ledger()["billed"] == 6


def test_interrupted_it_is_one_line_and_the_same_command_finishes(shell: Shell) -> None:
    shell.emulator.faults([{"on": "prediction", "fault": "slow", "seconds": 1, "times": None}])
    manifest = shell.manifest(pictures(24))
    running = shell.start(manifest, "--concurrency", "4")
    wait_until(lambda: shell.stored() >= 4 or not running.running)
    running.send(signal.SIGINT)
    one_line(running.ended(), 130, "interrupted: run the same command again")
    before = shell.stored()
    assert 4 <= before < 24
    parts = [part.read_bytes() for part in (shell.folder / "out").glob("runs/*/*/parts/*.jsonl")]
    assert sum(row.status == "stored" for part in parts for row in report_rows(part)) >= 4

    shell.emulator.faults([])
    again = shell.batch(manifest, "--json")
    assert again.status == 0, again
    counts = Summary.model_validate_json(again.stdout).counts
    assert counts == {"done": before, "stored": 24 - before}
    assert shell.emulator.ledger()["billed"] == 24
