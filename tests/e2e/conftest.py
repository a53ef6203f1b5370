"""Fixtures for the tests that need other programs or minutes. Every test in this folder is marked ``e2e``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ceph import CephGateway, ceph_gateway
from tests.support.prefect_server import PrefectServer

# All tests of a file run in one process. Those that take minutes come first, so that none is left to run
# alone at the end.
LONGEST_FIRST = (
    "test_deployments.py",
    "test_docs.py",
    "test_batch.py",
    "test_shards.py",
    "test_canary.py",
    "test_wheel.py",
    "test_webhooks.py",
    "test_sqs.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=_rank)  # stable: tests of a file stay in order


def _rank(item: pytest.Item) -> int:
    in_order = item.path.parent == Path(__file__).parent and item.path.name in LONGEST_FIRST
    return LONGEST_FIRST.index(item.path.name) if in_order else len(LONGEST_FIRST)


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephGateway]:
    """A real S3 server: checks signatures, races and expiry. Fails, never skips, where Ceph is missing."""
    with ceph_gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def prefect(prefect: PrefectServer) -> Iterator[PrefectServer]:
    """The session's Prefect server; what a file's tests set up on it is gone afterwards."""
    prefect.clean()
    yield prefect
    prefect.clean()
