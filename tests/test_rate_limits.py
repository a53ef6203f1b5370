"""Many images at once against an API with limits, over sockets: few refusals, little time lost."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.steps.run_job import make_job, run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store
from tests.support.emulator_process import Emulator
from tests.support.engine import SMALL

IMAGES = 24
RUN = RunInfo(package_version="test")


async def restyle_all(url: str, output: Path) -> None:
    store = open_store(str(output))
    async with WaveSpeedClient("test-key", url) as client:
        steps = StepSet(client, store, Settings())
        submit, download = partial(steps.submit, run=RUN), partial(steps.download, run=RUN)

        async def restyle(variant: int) -> Any:
            job = await make_job("https://example.com/cat.jpg", SMALL, variant, store)
            return await run_job(job, submit, steps.poll, download)

        await asyncio.gather(*(restyle(variant) for variant in range(IMAGES)))


def span(predictions: list[dict[str, Any]], first: str, last: str) -> float:
    """Seconds from the earliest of one time to the latest of another."""
    begun = min(datetime.fromisoformat(each[first][:26]) for each in predictions)
    return (max(datetime.fromisoformat(each[last][:26]) for each in predictions) - begun).total_seconds()


@pytest.mark.e2e
async def test_places_in_flight_are_kept_full_with_less_than_two_refusals_an_image(tmp_path: Path) -> None:
    with Emulator("--tier", "6000", "4", "--latency", "1", "1", "--prerendered") as emulator:
        await restyle_all(emulator.url, tmp_path)
        ledger = emulator.ledger()
    predictions = ledger["predictions"]
    assert len(predictions) == ledger["billed"] == IMAGES
    assert ledger["calls"]["submit"] - IMAGES <= 2 * IMAGES
    worked = sum(span([each], "created_at", "completed_at") for each in predictions)
    assert span(predictions, "created_at", "completed_at") <= 1.5 * worked / 4


async def test_a_used_up_minute_is_not_hammered(tmp_path: Path) -> None:
    async def submitted(*options: str) -> int:
        limits = ("--tier", "20", "100", "--latency", "0.2", "0.4", "--prerendered")
        with Emulator(*limits, *options) as emulator:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(restyle_all(emulator.url, tmp_path / "-".join(options)), 4)
            ledger = emulator.ledger()
        assert ledger["billed"] == 20
        return int(ledger["calls"]["submit"])

    silent, told = await asyncio.gather(submitted(), submitted("--dialect", "retry-after"))
    assert told == IMAGES  # four are refused, and then all wait for as long as it says
    # Otherwise one probes after 1 s and after 3 s, and where places of ours became free, twice more.
    assert IMAGES < silent <= IMAGES + 6
