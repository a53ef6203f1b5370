"""The generators of `make test` once more: some 15,000 cases, most of several keys, rows or fields."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cases import TIMES

TESTS = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("test_odd_keys.py", 15),
        ("test_manifest_forms.py", 15),
        ("test_source_formats.py", 15),
        ("test_hostile_answers.py", 10),
    ],
)
def test_a_generator_finds_nothing_in_many_times_as_many_cases(name: str, times: int) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not e2e", str(TESTS / name)]
    ended = subprocess.run(
        command, env={**os.environ, TIMES: str(times)}, cwd=TESTS.parent, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
