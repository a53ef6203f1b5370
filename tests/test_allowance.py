"""Slots in flight and pace, shared by all runs on an account through a real Prefect server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from prefect._internal.concurrency.cancellation import AsyncCancelScope
from prefect.blocks.system import Secret
from prefect.concurrency.asyncio import concurrency
from pydantic import SecretStr

from prefect_wavespeed.blocks.names import IN_FLIGHT_LIMIT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.tasks.allowance import Allowance
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until

pytestmark = pytest.mark.e2e  # they wait for a real server

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


async def test_a_process_keeps_to_its_own_maximum_within_the_limit(limit: Limit) -> None:
    in_flight = InFlight()

    async def occupy(allowance: Allowance) -> None:
        async with allowance.slot():
            in_flight.add(1)
            await asyncio.sleep(0.05)
            in_flight.add(-1)

    async with Allowance.open(limit.block(max_in_flight=2)) as allowance:
        await asyncio.gather(*(occupy(allowance) for _ in range(10)))
        assert limit.leased <= 2
    assert in_flight.most <= 2
    assert limit.leased == 0


async def test_unneeded_slots_go_back_while_the_run_goes_on(limit: Limit) -> None:
    async with Allowance.open(limit.block()) as allowance, allowance.slot():
        async with allowance.slot(), allowance.slot():
            await _until(lambda: limit.leased >= 3)
        await _until(lambda: limit.leased == 1)


async def test_slots_go_back_after_an_error(limit: Limit) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Allowance.open(limit.block()) as allowance, allowance.slot():
            raise ZeroDivisionError
    assert limit.leased == 0


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


async def test_a_waiter_that_is_cancelled_leaves_the_slot_to_others(limit: Limit) -> None:
    async with Allowance.open(limit.block(max_in_flight=1)) as allowance:

        async def wait() -> None:
            async with allowance.slot():
                pass

        async with allowance.slot():
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(60), allowance.slot():
            pass
    assert limit.leased == 0


async def test_without_a_limit_a_process_has_its_maximum_to_itself(prefect: PrefectServer) -> None:
    in_flight = InFlight()

    async def occupy(allowance: Allowance) -> None:
        async with allowance.slot():
            in_flight.add(1)
            await asyncio.sleep(0.01)
            in_flight.add(-1)

    async with Allowance.open(_block(max_in_flight=3)) as allowance:
        await asyncio.gather(*(occupy(allowance) for _ in range(12)))
    assert in_flight.most == 3


async def test_the_error_for_a_missing_limit_says_how_to_create_it(prefect: PrefectServer) -> None:
    with prefect.used_here(), pytest.raises(ConfigurationError) as caught:
        async with Allowance.open(_block(concurrency_limit="nobody-made-it")):
            pass
    assert "concurrency_limit nobody-made-it does not exist" in caught.value.message
    assert "`prefect gcl create nobody-made-it --limit N`" in caught.value.message
    assert "`restyle setup --tier" in caught.value.message


async def test_submissions_are_spaced_evenly() -> None:
    allowance = Allowance(requests_per_minute=1200, max_slots=None)  # every 0.05 s
    turns = []

    async def submit() -> None:
        await allowance.pace()
        turns.append(time.monotonic())

    since = time.monotonic()
    await asyncio.gather(*(submit() for _ in range(10)))
    await asyncio.sleep(0.5)  # an unused turn is not made up for
    idle = time.monotonic()
    await asyncio.gather(*(submit() for _ in range(10)))
    grain = 0.01
    assert [n for n, at in enumerate(turns[:10]) if at < since + 0.05 * n - grain] == []
    assert [n for n, at in enumerate(turns[10:]) if at < idle + 0.05 * n - grain] == []


# --- `restyle setup --tier` ---


@dataclass
class Setup:
    """`restyle setup` on a server of its own."""

    prefect: PrefectServer
    emulator: Emulator

    def run(self, *options: str) -> dict[str, str]:
        """Run it, and return what it reports for each object."""
        env = {"WAVESPEED_API_KEY": KEY, "WAVESPEED_BASE_URL": self.emulator.url}
        ended = self.prefect.restyle("setup", *options, env=env)
        assert (ended.status, ended.stderr) == (0, ""), ended
        assert KEY not in ended.stdout
        lines = [line.split(None, 1) for line in ended.stdout.splitlines()]
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
def setup(prefect: PrefectServer, emulator: Emulator) -> Iterator[Setup]:
    yield Setup(prefect, emulator)
    prefect.clean()


def test_a_tier_sets_the_block_and_the_limit(setup: Setup) -> None:
    limit, block = f"global-concurrency-limit/{IN_FLIGHT_LIMIT}", "wavespeed/default"
    made = setup.run("--tier", "silver")
    assert made[limit] == "made: 100 predictions in flight for all runs together"
    assert made[block].startswith("made:")
    assert "500 a minute, 100 in flight" in made[block]
    assert setup.limit() == 100
    assert setup.block["requests_per_minute"] == 500
    assert (setup.block["max_in_flight"], setup.block["concurrency_limit"]) == (100, IN_FLIGHT_LIMIT)

    again = setup.run("--tier", "silver")
    assert [again[limit].split(":")[0], again[block].split(":")[0]] == ["found", "found"]

    assert setup.limit(7) == 7
    assert limit not in setup.run()  # without a tier, the limit is left alone
    assert setup.limit() == 7
    assert setup.run("--tier", "silver")[limit] == "updated: 100 in flight, was 7"
    assert setup.limit() == 100

    bronze = setup.run("--tier", "bronze")
    assert bronze[limit] == "updated: 3 in flight, was 100"
    assert bronze[block].startswith("updated:")
    assert (setup.block["requests_per_minute"], setup.block["max_in_flight"]) == (10, 3)


def test_a_block_whose_limit_was_deleted_is_refused_before_anything_is_billed(
    setup: Setup, tmp_path: Any
) -> None:
    setup.run("--tier", "bronze")
    setup.prefect.call("DELETE", f"/v2/concurrency_limits/{IN_FLIGHT_LIMIT}")
    (tmp_path / "m.csv").write_text("image\nhttps://example.com/1.jpg\n")
    ended = setup.prefect.restyle("batch", str(tmp_path / "m.csv"), "--out", str(tmp_path / "out"))
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        f"error: WaveSpeed block: concurrency_limit {IN_FLIGHT_LIMIT} does not exist"
    )
    assert ended.stderr.count("\n") == 1
    assert setup.emulator.ledger()["calls"]["submit"] == 0
    setup.run("--tier", "bronze")


async def _until(condition: Any) -> None:
    """`wait_until` without blocking the event loop."""
    await asyncio.to_thread(wait_until, condition)


async def test_a_limit_of_0_is_refused(prefect: PrefectServer) -> None:
    empty = Limit(prefect, 0)
    empty.make()
    with prefect.used_here(), pytest.raises(ConfigurationError, match="nothing may be in flight"):
        async with Allowance.open(empty.block()):
            pass


async def test_a_lost_lease_takes_its_slots_with_it(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    """If its renewal fails, Prefect cancels the holder. What is in flight goes on; nothing more starts."""
    scopes: list[AsyncCancelScope] = []

    @asynccontextmanager
    async def losing(*names: Any, **options: Any) -> Any:
        async with concurrency(*names, **options):
            with AsyncCancelScope() as scope:  # like Prefect's own around the renewal
                scopes.append(scope)
                yield

    monkeypatch.setattr("prefect_wavespeed.tasks.allowance.concurrency", losing)
    monkeypatch.setattr("prefect_wavespeed.tasks.allowance._RETRY_SECONDS", 0.1)
    in_flight, land = InFlight(), asyncio.Event()

    async def job(allowance: Allowance) -> None:
        async with allowance.slot():
            in_flight.add(1)
            await land.wait()
            in_flight.add(-1)

    async with Allowance.open(limit.block()) as allowance:
        jobs = [asyncio.create_task(job(allowance)) for _ in range(15)]
        await _until(lambda: in_flight.now == 5)
        for scope in scopes:
            scope.cancel()
        await _until(lambda: len(scopes) == 10)  # leased anew
        await asyncio.sleep(0.5)
        assert in_flight.now == 5
        land.set()
        await asyncio.gather(*jobs)
        assert in_flight.most == 5
