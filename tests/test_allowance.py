"""Slots in flight and pace, with a global concurrency limit in this process; tests/e2e has a real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prefect._internal.concurrency.cancellation import AsyncCancelScope
from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import ConfigurationError, NoSlotError
from prefect_wavespeed.tasks import allowance as module
from prefect_wavespeed.tasks.allowance import Allowance

SLOTS = 5


class Limit:
    """A global concurrency limit, as the module sees Prefect's.

    Attributes:
        leased: slots that are leased now, by other runs too.
        leases: how many leases were granted.
        scopes: of the leases; cancelling one is what Prefect does when a lease cannot be renewed.
    """

    def __init__(self) -> None:
        self.leased = self.leases = 0
        self.error: Exception | None = None
        self.deleted = False
        self.scopes: list[AsyncCancelScope] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def concurrency(self, name: str, *, occupy: int, **_: object) -> AsyncIterator[None]:
        if self.error:
            raise self.error
        await self.take(occupy)
        self.leases += 1
        try:
            with AsyncCancelScope() as scope:
                self.scopes.append(scope)
                yield
        finally:
            await self.give_back(occupy)

    async def take(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.leased + count <= SLOTS)
            self.leased += count

    async def give_back(self, count: int) -> None:
        async with self._changed:
            self.leased -= count
            self._changed.notify_all()

    async def read(self, name: str) -> int:
        return SLOTS

    async def is_used_up(self, name: str) -> bool:
        return self.leased >= SLOTS

    async def is_gone(self, name: str) -> bool:
        return self.deleted


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    made = Limit()
    monkeypatch.setattr(module, "concurrency", made.concurrency)
    monkeypatch.setattr(module, "_read_limit", made.read)
    monkeypatch.setattr(module, "_is_used_up", made.is_used_up)
    monkeypatch.setattr(module, "_is_gone", made.is_gone)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    return made


def block(*, limit: str | None = "in-flight", max_in_flight: int | None = None) -> WaveSpeed:
    return WaveSpeed(
        api_key=Secret(value=SecretStr("some-key")), concurrency_limit=limit, max_in_flight=max_in_flight
    )


class Runs:
    """Predictions in flight."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.end = asyncio.Event()

    def start(self, allowance: Allowance, count: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._run(allowance)) for _ in range(count)]

    async def _run(self, allowance: Allowance) -> None:
        async with allowance.slot():
            self.now += 1
            self.most = max(self.most, self.now)
            await self.end.wait()
            self.now -= 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("given", "most"),
    [
        (block(), 5),
        (block(max_in_flight=2), 2),
        (block(max_in_flight=9), 5),
        (block(limit=None, max_in_flight=3), 3),
    ],
    ids=["the limit", "less than the limit", "more than the limit", "no limit"],
)
async def test_as_many_are_in_flight_as_block_and_limit_allow(
    limit: Limit, given: WaveSpeed, most: int
) -> None:
    runs = Runs()
    async with Allowance.open(given) as allowance:
        tasks = runs.start(allowance, 12)
        await until(lambda: runs.now == most)
        await asyncio.sleep(0.05)
        assert limit.leased == (most if given.concurrency_limit else 0)
        runs.end.set()
        await asyncio.gather(*tasks)
    assert runs.most == most
    assert limit.leased == 0


async def test_without_any_maximum_all_are_in_flight(limit: Limit) -> None:
    runs = Runs()
    async with Allowance.open(block(limit=None)) as allowance:
        tasks = runs.start(allowance, 50)
        await until(lambda: runs.now == 50)
        runs.end.set()
        await asyncio.gather(*tasks)


async def test_unneeded_slots_go_back_while_the_run_goes_on(limit: Limit) -> None:
    async with Allowance.open(block()) as allowance, allowance.slot():
        async with allowance.slot(), allowance.slot():
            assert limit.leased == 3
        await until(lambda: limit.leased == 1)


async def test_slots_go_back_after_an_error(limit: Limit) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Allowance.open(block()) as allowance, allowance.slot():
            raise ZeroDivisionError
    assert limit.leased == 0


async def test_slots_go_back_when_the_run_is_cancelled(limit: Limit) -> None:
    in_flight = asyncio.Event()

    async def run() -> None:
        async with Allowance.open(block()) as allowance, allowance.slot():
            in_flight.set()
            await asyncio.sleep(600)

    running = asyncio.create_task(run())
    await in_flight.wait()
    assert limit.leased == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert limit.leased == 0


async def test_a_waiter_that_is_cancelled_leaves_the_slot_to_others(limit: Limit) -> None:
    runs = Runs()
    async with Allowance.open(block(max_in_flight=1)) as allowance:
        async with allowance.slot():
            (waiting,) = runs.start(allowance, 1)
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(10), allowance.slot():
            pass
    assert runs.most == limit.leased == 0


async def test_a_lost_lease_takes_its_slots_with_it(limit: Limit) -> None:
    """If its renewal fails, Prefect cancels the holder. What is in flight goes on; nothing more starts."""
    runs = Runs()
    async with Allowance.open(block()) as allowance:
        tasks = runs.start(allowance, 15)
        await until(lambda: runs.now == 5)
        for scope in limit.scopes:
            scope.cancel()
        await until(lambda: limit.leases == 10)  # leased again
        await asyncio.sleep(0.05)
        assert runs.now == 5
        runs.end.set()
        await asyncio.gather(*tasks)
    assert runs.most == 5


async def test_leases_are_requested_again_after_an_error(limit: Limit) -> None:
    runs, limit.error = Runs(), ConnectionError("no server")
    runs.end.set()
    async with Allowance.open(block()) as allowance:
        tasks = runs.start(allowance, 3)
        await asyncio.sleep(0.05)
        assert runs.most == 0
        limit.error = None
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)


async def test_a_run_without_any_slot_says_what_it_waits_for_and_gives_up(
    limit: Limit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.02)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.2)
    await limit.take(SLOTS)  # by runs that are gone
    async with Allowance.open(block()) as allowance:
        for _ in range(2):
            with caplog.at_level("WARNING"), pytest.raises(NoSlotError, match=r"in-flight.*doctor --fix"):
                async with asyncio.timeout(10), allowance.slot():
                    pass
        assert caplog.text.count("waiting for the concurrency limit in-flight") == 1
        await limit.give_back(SLOTS)
        async with asyncio.timeout(10), allowance.slot():
            pass


async def test_a_limit_that_is_deleted_meanwhile_ends_the_wait_with_what_to_do(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.02)
    async with Allowance.open(block()) as allowance:
        limit.deleted, limit.error = True, ObjectNotFound(Exception("gone"))
        with pytest.raises(ConfigurationError, match=r"in-flight does not exist: create it with"):
            async with asyncio.timeout(10), allowance.slot():
                pass
        limit.deleted, limit.error = False, None  # made anew
        async with asyncio.timeout(10), allowance.slot():
            pass


async def test_a_run_that_has_slots_waits_for_its_own_predictions_as_long_as_they_take(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.02)
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.05)
    runs = Runs()
    async with Allowance.open(block()) as allowance:
        tasks = runs.start(allowance, 8)
        await asyncio.sleep(0.3)
        runs.end.set()
        await asyncio.gather(*tasks)
    assert runs.most == 5


async def test_other_runs_get_a_share_of_a_limit_that_is_used_up(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARE_SECONDS", 0.05)
    async with Allowance.open(block()) as allowance:

        async def run_on() -> None:
            while True:
                async with allowance.slot():
                    await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(run_on()) for _ in range(20)]
        await until(lambda: limit.leased == SLOTS)
        async with asyncio.timeout(10):
            await limit.take(1)  # waits for its turn like any other lease
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert limit.leased == 1


async def test_submissions_are_spaced_evenly() -> None:
    allowance = Allowance(requests_per_minute=1200, max_slots=None)  # every 0.05 s
    turns = []

    async def submit() -> None:
        await allowance.pace()
        turns.append(time.monotonic())

    since = time.monotonic()
    await asyncio.gather(*(submit() for _ in range(10)))
    await asyncio.sleep(0.2)  # an unused turn is not made up for
    idle = time.monotonic()
    await asyncio.gather(*(submit() for _ in range(10)))
    grain = 0.01
    assert [n for n, at in enumerate(turns[:10]) if at < since + 0.05 * n - grain] == []
    assert [n for n, at in enumerate(turns[10:]) if at < idle + 0.05 * n - grain] == []
