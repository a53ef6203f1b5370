"""Fixtures for the tests that need a real Ceph gateway. Every test in this folder is marked ``e2e``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ceph import CephGateway, ceph_gateway


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
