"""Slots in flight and pace, shared by all runs on an account through a real Prefect server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.blocks.names import IN_FLIGHT_LIMIT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.deployments.setup.tiers import Tier
from prefect_wavespeed.deployments.setup.wavespeed import set_up_wavespeed
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.tasks.allowance import Allowance
from tests.support.prefect_server import PrefectServer

KEY = "key-that-nobody-may-see"


@dataclass
class Limit:
    """A global concurrency limit on a real server."""

    prefect: PrefectServer
    slots: int
    name: str = field(default_factory=lambda: f"in-flight-{uuid4().hex[:8]}")

    def make(self) -> None:
        """Create it."""
        self.prefect.call(
            "POST", "/v2/concurrency_limits/", {"name": self.name, "limit": self.slots, "active": True}
        )

    @property
    def leased(self) -> int:
        """Slots that are leased now."""
        leased: int = self.prefect.call("GET", f"/v2/concurrency_limits/{self.name}")["active_slots"]
        return leased

    def block(self, **more: Any) -> WaveSpeed:
        """A block that names it."""
        return _block(concurrency_limit=self.name, **more)


def _block(**more: Any) -> WaveSpeed:
    return WaveSpeed(api_key=Secret(value=SecretStr(KEY)), **more)


@pytest.fixture
def limit(prefect: PrefectServer) -> Iterator[Limit]:
    made = Limit(prefect, 5)
    made.make()
    with prefect.used_here():
        yield made


class InFlight:
    """Counts predictions in flight, in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.ended = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.now += count
            self.most = max(self.most, self.now)
            self.ended += count < 0


def test_runs_that_share_a_limit_never_exceed_it_together(limit: Limit) -> None:
    in_flight = InFlight()

    async def occupy(allowance: Allowance) -> None:
        async with allowance.slot():
            in_flight.add(1)
            await asyncio.sleep(0.05)
            in_flight.add(-1)

    async def run() -> None:
        async with Allowance.open(limit.block()) as allowance:
            await asyncio.gather(*(occupy(allowance) for _ in range(30)))

    def in_a_loop_of_its_own(_: int) -> None:
        with limit.prefect.used_here():
            asyncio.run(run())

    with ThreadPoolExecutor() as threads:
        list(threads.map(in_a_loop_of_its_own, range(2)))
    assert in_flight.ended == 60
    assert 1 <= in_flight.most <= 5
    assert limit.leased == 0


async def test_a_run_uses_all_slots_of_the_limit(limit: Limit) -> None:
    at_once = asyncio.Barrier(5)

    async def occupy(allowance: Allowance) -> None:
        async with allowance.slot():
            await at_once.wait()  # passes only once five are in flight

    async with Allowance.open(limit.block()) as allowance:
        async with asyncio.timeout(60):
            await asyncio.gather(*(occupy(allowance) for _ in range(10)))


async def test_slots_go_back_when_the_run_is_cancelled(limit: Limit) -> None:
    there = asyncio.Event()

    async def run() -> None:
        async with Allowance.open(limit.block()) as allowance, allowance.slot():
            there.set()
            await asyncio.sleep(600)

    running = asyncio.create_task(run())
    await there.wait()
    assert limit.leased == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert limit.leased == 0


async def test_the_error_for_a_missing_limit_says_how_to_create_it(prefect: PrefectServer) -> None:
    with prefect.used_here(), pytest.raises(ConfigurationError) as caught:
        async with Allowance.open(_block(concurrency_limit="nobody-made-it")):
            pass
    assert "concurrency_limit nobody-made-it does not exist" in caught.value.message
    assert "`prefect gcl create nobody-made-it --limit N`" in caught.value.message
    assert "`restyle setup --tier" in caught.value.message


async def test_a_limit_that_is_deleted_meanwhile_is_missed_by_name(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.tasks.allowance._QUIET_SECONDS", 0.5)
    async with Allowance.open(limit.block()) as allowance:
        limit.prefect.call("DELETE", f"/v2/concurrency_limits/{limit.name}")
        with pytest.raises(ConfigurationError, match=f"{limit.name} does not exist"):
            async with asyncio.timeout(60), allowance.slot():
                pass


# --- `restyle setup --tier …` ---


@dataclass
class Setup:
    """The part of `restyle setup` that tiers are for, in this process."""

    prefect: PrefectServer
    capsys: pytest.CaptureFixture[str]

    def run(self, tier: Tier | None = None) -> dict[str, str]:
        """Run it, and return what it reports for each object."""
        with self.prefect.used_here():
            asyncio.run(set_up_wavespeed(tier))
        printed = self.capsys.readouterr().out
        assert KEY not in printed
        lines = [line.split(None, 1) for line in printed.splitlines()]
        return {rest.split(":")[0]: f"{what}:{rest.partition(':')[2]}" for what, rest in lines}

    @property
    def block(self) -> dict[str, Any]:
        """The block's data."""
        (found,) = [
            document
            for document in self.prefect.call("POST", "/block_documents/filter", {})
            if (document["block_type"]["slug"], document["name"]) == ("wavespeed", WAVESPEED_BLOCK)
        ]
        data: dict[str, Any] = found["data"]
        return data

    def limit(self, new: int | None = None) -> int:
        """The limit, changed to ``new`` if that is given."""
        path = f"/v2/concurrency_limits/{IN_FLIGHT_LIMIT}"
        if new:
            self.prefect.call("PATCH", path, {"limit": new})
        limit: int = self.prefect.call("GET", path)["limit"]
        return limit


@pytest.fixture
def setup(
    prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Setup]:
    monkeypatch.setenv("WAVESPEED_API_KEY", KEY)
    yield Setup(prefect, capsys)
    prefect.clean()


def test_a_tier_sets_the_block_and_the_limit(setup: Setup) -> None:
    limit, block = f"global-concurrency-limit/{IN_FLIGHT_LIMIT}", "wavespeed/default"
    made = setup.run("silver")
    assert made[limit] == "created: 300 predictions in flight for all runs together"
    assert made[block].startswith("created:")
    assert "500 a minute, 300 in flight" in made[block]
    assert setup.limit() == 300
    assert setup.block["requests_per_minute"] == 500
    assert (setup.block["max_in_flight"], setup.block["concurrency_limit"]) == (300, IN_FLIGHT_LIMIT)

    again = setup.run("silver")
    assert [again[limit].split(":")[0], again[block].split(":")[0]] == ["found", "found"]

    assert setup.limit(7) == 7
    assert limit not in setup.run()  # without a tier, the limit is left alone
    assert setup.limit() == 7
    assert setup.run("silver")[limit] == "updated: 300 in flight, was 7"
    assert setup.limit() == 300

    bronze = setup.run("bronze")
    assert bronze[limit] == "updated: 2 in flight, was 300"
    assert bronze[block].startswith("updated:")
    assert (setup.block["requests_per_minute"], setup.block["max_in_flight"]) == (2, 2)


async def test_a_limit_of_0_is_refused(prefect: PrefectServer) -> None:
    empty = Limit(prefect, 0)
    empty.make()
    with prefect.used_here(), pytest.raises(ConfigurationError, match="nothing may be in flight"):
        async with Allowance.open(empty.block()):
            pass
