"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.s3_servers import S3Server, moto_server

# Without bytecode every start of Prefect takes three times as long, and tests start hundreds of processes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


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


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """One S3 server for the whole session; let each test have a prefix of its own."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real Prefect server for the whole session."""
    settings = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
    with PrefectServer(tmp_path_factory.mktemp("prefect"), settings) as server:
        yield server
