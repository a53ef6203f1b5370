"""Whatever is away in the middle of a batch: the same command finishes it, and bills each picture once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.pacing import pace_of
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import Progress
from prefect_wavespeed.errors import RestyleError, StoreError
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import open_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.batches import Finished, pictures, restyle_all, write_manifest
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

_IMAGES = 50
_BEFORE = 15  # pictures that are stored when it begins
# Times shortened by a few hundred: a few seconds of these are an outage of ten minutes.
_TIMES = Settings(lease_seconds=3, submit_timeout_seconds=0.8, reconcile_seconds=0.4, poll_timeout_seconds=2)


def _down(on: str, fault: str = "status", **details: Any) -> dict[str, Any]:
    status = {"status": 503} if fault in ("status", "refused") else {}
    return {"on": on, "fault": fault, "times": None, **status, **details}


_OUTAGES: dict[str, list[dict[str, Any]]] = {
    "submit redirected, and later at 503": [
        _down("submit", "redirect", location="/maintenance") | {"times": 20},
        _down("submit", "refused"),
    ],
    "submit accepted and cut, and the history": [_down("submit", "drop_after"), _down("history")],
    "submit asks to wait for a day": [_down("submit", "refused", status=429, retry_after=86_400)],
    "result at 404": [_down("result", status=404)],
    "result asks to wait till the year 9999": [
        _down("result", status=429, retry_after="Fri, 31 Dec 9999 23:59:59 GMT")
    ],
    "balance, and no credits": [
        _down("balance"),
        _down("account_balance"),
        _down("submit", "refused", status=402),
    ],
    "downloads": [_down("cdn", status=503)],
}
_STORE = "store"


@dataclass
class _Outage:
    """How a batch ended during an outage and after it, what the ledger has left, and the pictures billed."""

    during: Finished | RestyleError
    after: Finished
    left: list[Any]
    billed: int


@pytest.fixture(scope="module")
def outages(moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Outage]:
    """All outages side by side, each with an account of its own: they mostly wait."""
    names = [*_OUTAGES, _STORE]
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        apis = list(threads.map(lambda _: stack.enter_context(_emulator()), names))
        way, behind = stack.enter_context(proxy(moto))

        async def all_at_once() -> list[_Outage]:
            async with asyncio.TaskGroup() as group:
                tasks = []
                for name, api in zip(names, apis, strict=True):
                    folder = tmp_path_factory.mktemp("outage")
                    if name == _STORE:
                        store = s3_store(
                            behind.bucket, "outage", behind.session(), endpoint_url=behind.endpoint
                        )
                        begin, end = way.down, way.up
                    else:
                        store = open_store(str(folder / "out"))
                        begin, end = partial(api.faults, _OUTAGES[name]), partial(api.faults, [])
                    tasks.append(group.create_task(_sit_out(api, store, folder, begin, end)))
            return [task.result() for task in tasks]

        return dict(zip(names, asyncio.run(all_at_once()), strict=True))


@pytest.fixture
def api() -> Iterator[Emulator]:
    """An emulator for one test."""
    with _emulator() as running:
        yield running


def _emulator() -> Emulator:
    """An emulator that has its picture ready."""
    return Emulator("--latency", "0.1", "0.2", "--prerendered")


async def _sit_out(
    api: Emulator, store: Store, folder: Path, begin: Callable[[], None], end: Callable[[], None]
) -> _Outage:
    manifest = write_manifest(folder / "m.jsonl", pictures(_IMAGES))
    begun = False

    def begin_once(progress: Progress) -> None:
        nonlocal begun
        if progress.counts["stored"] >= _BEFORE and not begun:
            begun = True
            begin()

    async def restyle() -> Finished:
        pace_of.cache_clear()  # as in another process
        with instant_retries():
            options = BatchOptions(concurrency=16)
            return await restyle_all(
                api.url, store, manifest, options, settings=_TIMES, on_progress=begin_once
            )

    try:
        during: Finished | RestyleError = await restyle()
    except RestyleError as error:
        during = error
    assert begun
    end()
    after = await restyle()
    left = [*await store.list(layout.FAILED), *await store.list(layout.OPEN)]
    return _Outage(during, after, left, api.ledger()["billed"])


@pytest.mark.parametrize("outage", [*_OUTAGES, _STORE])
def test_after_an_outage_the_same_command_finishes_all_and_bills_each_once(
    outages: dict[str, _Outage], outage: str
) -> None:
    during, after = outages[outage].during, outages[outage].after
    if isinstance(during, RestyleError):
        assert outage == _STORE, "the report can be written"
        assert isinstance(during, StoreError)
    else:
        assert during.error, "it is said"
        assert _BEFORE <= during.statuses.count("stored") < _IMAGES
        assert set(during.statuses) <= {"stored", "open", "unsubmitted", "failed"}
        assert during.statuses.count("failed") <= 2, "what may be asked again has not failed"

    assert after.error is None
    assert set(after.statuses) == {"done", "stored"}
    assert not outages[outage].left, "no dead letter, and nothing open"
    assert outages[outage].billed == _IMAGES


def test_after_an_outage_of_prefect_the_same_command_finishes_all_and_bills_each_once(
    api: Emulator, prefect: PrefectServer, tmp_path: Path
) -> None:
    out, manifest = tmp_path / "out", write_manifest(tmp_path / "m.jsonl", pictures(_IMAGES))
    key = {"WAVESPEED_API_KEY": "k" * 16, "WAVESPEED_BASE_URL": api.url}
    command = ("batch", manifest, "--out", str(out), "--size", "256*256", "--concurrency", "4", "--json")

    with proxy(S3Server(prefect.url.removesuffix("/api"))) as (between, _):
        once = {"PREFECT_API_URL": f"{between.endpoint}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
        slow = {"RESTYLE_MIN_POLL_SECONDS": "2"}
        running = prefect.start(*command, env=key | once | slow)
        wait_until(lambda: len(list(out.glob("images/*/metadata.json"))) >= _BEFORE or not running.running)
        between.down()
        down_at = time.monotonic()
        during = running.ended()
    assert time.monotonic() - down_at < 30, "it ends soon"
    assert during.status == 1
    assert f"Prefect's server at {between.endpoint}/api does not answer: what is in flight" in during.stderr
    assert "Traceback" not in during.stderr
    said = json.loads(during.stdout)
    assert said["error"]["type"] == "PrefectUnavailableError"
    assert said["error"]["retryable"]
    counts = said["summary"]["counts"]
    assert set(counts) == {"stored", "unsubmitted"}, "none has failed, and what was in flight is stored"
    assert api.ledger()["billed"] == counts["stored"]

    after = prefect.restyle(*command, env=key)
    assert after.status == 0, after.stderr
    assert json.loads(after.stdout)["rows"] == _IMAGES
    assert not list(out.glob("failed/*"))
    assert api.ledger()["billed"] == _IMAGES
