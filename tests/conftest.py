"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulator_process import Emulator


@pytest.fixture(scope="session")
def emulator_process() -> Iterator[Emulator]:
    """One quick emulator for the whole session."""
    with Emulator("--latency", "0.05", "0.1") as running:
        yield running


@pytest.fixture
def emulator(emulator_process: Emulator) -> Emulator:
    """The session's emulator with an empty account and nothing going wrong."""
    emulator_process.reset()
    return emulator_process
