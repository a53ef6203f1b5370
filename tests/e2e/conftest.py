"""Fixtures for the tests that need a real Ceph gateway. Every test in this folder is marked ``e2e``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ceph import CephGateway, ceph_gateway
from tests.support.prefect_server import PrefectServer


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephGateway]:
    """A real S3 server: checks signatures, races and expiry. Fails, never skips, where Ceph is missing."""
    with ceph_gateway() as gateway:
        yield gateway


@pytest.fixture(scope="session")
def _prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="module")
def prefect(_prefect: PrefectServer) -> Iterator[PrefectServer]:
    """A real Prefect server; what a file's tests set up on it is gone afterwards."""
    yield _prefect
    _prefect.clean()


@pytest.fixture(scope="session")
def lived_in_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real Prefect server on which tests save blocks under the names that users have: mind that."""
    settings = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_API_BLOCKS_REGISTER_ON_START": "false"}
    with PrefectServer(tmp_path_factory.mktemp("lived-in"), settings) as server:
        yield server
