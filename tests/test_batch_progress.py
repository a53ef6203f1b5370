"""How far a batch is, as a terminal or a log shows it."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.progress import RESTYLING, Progress, Recorder
from prefect_wavespeed.batch.report.parts import ReportParts
from prefect_wavespeed.deployments.cli.shared.console import Console
from prefect_wavespeed.deployments.cli.shared.progress import BatchProgress
from prefect_wavespeed.deployments.cli.shared.terminal import printable_streams
from prefect_wavespeed.storage.open_store import directory_store


def _progress(stored: int, failed: int = 0) -> Progress:
    counts: Counter[str] = Counter(stored=stored, failed=failed, open=failed)
    spent = 0.025 * stored
    since = time.monotonic()
    return Progress(2_000, counts, spent_usd=spent, restyling_since=since, doing=RESTYLING)  # type: ignore[arg-type]


class Clock:
    """The monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def test_without_a_terminal_there_is_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchProgress(Console(stderr=True)) as shown:
        progress = _progress(1_200, failed=3)
        for _ in range(30):
            clock.now += 1
            shown.update(progress)
    assert capsys.readouterr().err.splitlines() == [
        "1,206 of 2,000 rows, 6,545/min, 30.00 USD, 6 failed",
        "1,206 of 2,000 rows, 3,273/min, 30.00 USD, 6 failed",
    ]


def test_nothing_stored_and_nothing_failed_is_not_mentioned(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchProgress(Console(stderr=True)) as shown:
        progress = _progress(0)
        clock.now += 11
        shown.update(progress)
    assert capsys.readouterr().err == "0 of 2,000 rows, 0.00 USD\n"


def test_before_it_can_count_it_says_what_it_does(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with BatchProgress(Console(stderr=True)) as shown:
        for doing in ("reading the manifest", "checking 5,000 images"):
            clock.now += 11
            shown.update(Progress(doing=doing))
    assert capsys.readouterr().err == "reading the manifest\nchecking 5,000 images\n"


def test_so_does_a_terminal() -> None:
    screen = io.StringIO()
    with BatchProgress(Console(file=screen, force_terminal=True, width=120, color_system=None)) as shown:
        shown.update(Progress(doing="checking 5,000 images"))
    assert "checking 5,000 images" in screen.getvalue()
    assert "0/0" not in screen.getvalue()


def test_a_terminal_has_a_bar_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with BatchProgress(console) as shown:
        shown.update(_progress(1_200, failed=3))
    assert "restyling" in screen.getvalue()
    assert "1206/2000" in screen.getvalue()
    assert "6 failed" in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_rows_that_were_finished_before_say_nothing_about_the_rate_and_the_time_left(
    clock: Clock, tmp_path: Path
) -> None:
    table = JobTable()
    recorder = Recorder(table, ReportParts(directory_store(tmp_path), "runs/a"), lambda _: None)
    progress = recorder.progress
    progress.rows = 2_000
    progress.counts.update(done=1_000, stored=40)
    clock.now += 100  # the manifest was read
    recorder.doing(RESTYLING)
    clock.now += 30
    progress.counts.update(stored=60)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with BatchProgress(console) as shown:
        shown.update(progress)
    table.close()
    assert "120/min" in screen.getvalue()
    assert "0:07:30" in screen.getvalue()


def test_a_bar_moves_on_a_terminal_on_which_texts_of_others_are_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    console = Console(stderr=True, force_terminal=True)
    with printable_streams(), BatchProgress(console) as shown:
        shown.update(_progress(1))
        console.print("image \x1b]0;title\x07")
        print("\x1b[2J", file=sys.stderr)
    assert "\x1b[2K" in screen.getvalue()
    assert r"image \u001b]0;title" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()
    assert r"\u001b[2K" not in screen.getvalue()
