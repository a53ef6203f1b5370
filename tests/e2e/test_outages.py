"""Whatever is away in the middle of a batch: the same command finishes it, and bills each picture once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.pacing import pace_of
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import Progress
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.storage import layout
from tests.support.batches import Finished, pictures, restyle_all, write_manifest
from tests.support.emulator_process import Emulator

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


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    """An emulator that has its picture ready."""
    with Emulator("--latency", "0.1", "0.2", "--prerendered") as running:
        yield running


@pytest.mark.parametrize("outage", _OUTAGES)
async def test_after_an_outage_of_the_api_the_same_command_finishes_all_and_bills_each_once(
    api: Emulator, tmp_path: Path, outage: str
) -> None:
    api.reset()
    out, manifest = str(tmp_path / "out"), write_manifest(tmp_path / "m.jsonl", pictures(_IMAGES))

    def begin(progress: Progress) -> None:
        if progress.counts["stored"] >= _BEFORE:
            api.faults(_OUTAGES[outage])

    during = await _restyle(api, out, manifest, begin)
    assert during.error, "it is said"
    assert _BEFORE <= during.statuses.count("stored") < _IMAGES
    assert set(during.statuses) <= {"stored", "open", "unsubmitted", "failed"}
    assert during.statuses.count("failed") <= 2, "what may be asked again has not failed"

    api.faults([])
    after = await _restyle(api, out, manifest)
    assert after.error is None
    assert set(after.statuses) == {"done", "stored"}
    assert not await after.store.list(layout.FAILED)
    assert not await after.store.list(layout.OPEN)
    assert api.ledger()["billed"] == _IMAGES


async def _restyle(
    api: Emulator, out: str, manifest: str, on_progress: Callable[[Progress], None] = lambda _: None
) -> Finished:
    pace_of.cache_clear()  # as in another process
    with instant_retries():
        options = BatchOptions(concurrency=16)
        return await restyle_all(api.url, out, manifest, options, settings=_TIMES, on_progress=on_progress)
