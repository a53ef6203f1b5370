"""``make bench``, with few images: what it measures is there, and the same for all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measured import Measured, perfect_seconds

pytestmark = pytest.mark.e2e  # processes and servers by the dozen

_ROOT = Path(__file__).resolve().parent.parent


def test_the_bench_prints_a_table_with_both_contenders_and_what_could_be_reached() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "contest",
        "--images",
        "20",
        "--in-flight",
        "10",
        "--store",
        "directory",
    ]
    said = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    rows = {
        cells[0]: cells[1:]
        for line in said.stdout.splitlines()
        if len(cells := [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]) > 1
    }
    for contender in ("vendor's SDK in a thread pool", "this project"):
        *figures, billed, stored = rows[contender]
        assert all(re.fullmatch(r"[\d,.]+%?", figure) for figure in figures), rows
        assert (billed, stored) == ("20", "20")
    assert {"a perfect scheduler", "in flight / latency"} < set(rows)


@pytest.mark.parametrize(
    ("took", "in_flight", "seconds"),
    [([3.0], 5, 3.0), ([1.0, 2.0, 3.0], 1, 6.0), ([1.0, 2.0, 3.0, 1.0], 2, 4.0), ([2.0] * 600, 200, 6.0)],
)
def test_a_perfect_scheduler_fills_a_place_the_moment_that_it_is_free(
    took: list[float], in_flight: int, seconds: float
) -> None:
    assert perfect_seconds(took, in_flight) == seconds


def test_what_the_emulator_tells_is_read_to_the_nanosecond() -> None:
    def at(second: int, nanoseconds: int = 0) -> str:
        return f"2026-01-01T00:00:{second:02}.{nanoseconds:09}Z"

    predictions = [
        {"created_at": at(1), "completed_at": at(3, 500_000_000), "reported_at": at(4)},
        {"created_at": at(2), "completed_at": at(5), "reported_at": at(5, 250_000_000)},
        {"created_at": at(2), "completed_at": None, "reported_at": None},
    ]
    measured = Measured.of(
        {"predictions": predictions, "calls": {"submit": 3, "cdn": 2}, "billed": 3, "max_in_flight": 3}
    )
    assert measured.took == pytest.approx([2.5, 3.0])
    assert measured.delays == pytest.approx([0.25, 0.5])
    assert measured.calls == 3
