"""When polls are made, on an event loop whose time passes at once, so that nothing here waits."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median
from typing import Any

import pytest

from prefect_wavespeed.retry import backoff
from prefect_wavespeed.steps.poll_schedule import MAX_INTERVAL, PollSchedule

PATIENCE = 900.0


class QuickLoop(asyncio.SelectorEventLoop):
    """Instead of waiting, it moves its clock on."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        self._look = selector.select
        selector.select = self._select

    def time(self) -> float:
        return self._passed

    def _select(self, timeout: float | None) -> Any:
        self._passed += timeout or 0
        return self._look(0)


def run(main: Coroutine[Any, Any, None]) -> None:
    random.seed(1)
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        runner.run(main)


@dataclass
class Seen:
    """What came of the predictions of a run: how long each took, when it was asked for, and noticed."""

    took: list[float] = field(default_factory=list)
    polls: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def delays(self) -> list[float]:
        return [polls[-1] - took for took, polls in zip(self.took, self.polls, strict=True)]

    @property
    def polls_each(self) -> float:
        return mean(len(polls) for polls in self.polls)


async def watch(pace: PollSchedule, took: float, told: float | None, seen: Seen) -> None:
    """Poll a prediction that takes so long, and is said to."""
    loop = asyncio.get_running_loop()
    start, polls = loop.time(), []
    with pace.flight(fresh=True) as flight:
        while True:
            await flight.wait(0, PATIENCE)
            polls.append(loop.time() - start)
            if polls[-1] >= took:
                flight.ready(told)
                break
            flight.not_ready()
    seen.took.append(took)
    seen.polls.append(polls)


async def fly(
    took: Iterator[float], in_flight: int, *, told: bool = True, pace: PollSchedule | None = None
) -> Seen:
    """Poll many predictions, so many at once."""
    pace, seen = pace or PollSchedule(), Seen()
    places = asyncio.Semaphore(in_flight)

    async def one(seconds: float) -> None:
        async with places:
            await watch(pace, seconds, seconds if told else None, seen)

    await asyncio.gather(*(one(seconds) for seconds in took))
    seen.seconds = asyncio.get_running_loop().time()
    return seen


def evenly(low: float, high: float, count: int) -> Iterator[float]:
    chance = random.Random(1)
    return (chance.uniform(low, high) for _ in range(count))


@pytest.mark.parametrize(("told", "share", "polls"), [(True, 0.95, 4.5), (False, 0.93, 5.2)])
def test_six_hundred_images_come_close_to_a_perfect_scheduler(told: bool, share: float, polls: float) -> None:
    """Polls each second, as the vendor's SDK makes them, are 4.5 an image and notice after 0.5 s (p50)."""

    async def main() -> None:
        took = list(evenly(2, 4, 600))
        seen = await fly(iter(took), 200, told=told)
        places = [0.0] * 200
        for seconds in took:
            heapq.heappush(places, heapq.heappop(places) + seconds)
        assert max(places) / seen.seconds > share
        assert seen.polls_each < polls
        assert median(seen.delays) < 0.2

    run(main())


@pytest.mark.parametrize(("low", "high"), [(0.05, 0.1), (2, 4), (2.9, 3.1), (20, 60), (100, 300)])
def test_however_long_predictions_take_they_are_noticed_soon_with_few_polls(low: float, high: float) -> None:
    async def main() -> None:
        pace = PollSchedule()
        await fly(evenly(low, high, 100), 50, pace=pace)
        seen = await fly(evenly(low, high, 300), 50, pace=pace)
        assert median(seen.delays) < max(0.1, (high - low) / 8)
        assert seen.polls_each < (6 if high < 100 else 15)

    run(main())


def test_while_nothing_is_known_a_few_are_asked_for_often_and_the_others_wait_for_what_they_tell() -> None:
    async def main() -> None:
        seen = await fly(evenly(6, 9, 200), 200)
        early = [sum(poll < 6 for poll in polls) for polls in seen.polls]
        assert 1 <= sum(count > 0 for count in early) <= 8
        assert median(seen.delays) < 0.6

    run(main())


def test_others_do_not_wait_for_ever_for_scouts_that_never_come_back() -> None:
    async def main() -> None:
        slow = iter([500.0] * 8 + [5.0] * 50)
        seen = await fly(slow, 100)
        quick = [delay for took, delay in zip(seen.took, seen.delays, strict=True) if took == 5]
        assert max(quick) <= MAX_INTERVAL

    run(main())


def test_a_prediction_that_is_overdue_is_asked_for_ever_less_often_but_never_forgotten() -> None:
    async def main() -> None:
        pace = PollSchedule()
        await fly(evenly(2, 4, 100), 50, pace=pace)
        seen = await fly(iter([300.0]), 1, pace=pace)
        (polls,) = seen.polls
        gaps = [later - earlier for earlier, later in pairwise(polls)]
        assert round(max(gaps), 9) <= MAX_INTERVAL
        assert min(gaps[-10:]) > MAX_INTERVAL / 2
        assert len(polls) < 60

    run(main())


def test_a_change_of_speed_is_learnt() -> None:
    async def main() -> None:
        pace = PollSchedule()
        await fly(evenly(2, 4, 300), 50, pace=pace)
        await fly(evenly(20, 24, 400), 50, pace=pace)
        seen = await fly(evenly(20, 24, 100), 50, pace=pace)
        assert seen.polls_each < 6
        assert median(seen.delays) < 0.5

    run(main())


def test_what_may_be_done_already_is_asked_for_at_once() -> None:
    async def main() -> None:
        pace = PollSchedule()
        await fly(evenly(2, 4, 100), 50, pace=pace)
        start = asyncio.get_running_loop().time()
        with pace.flight(fresh=False) as flight:
            await flight.wait(0, PATIENCE)
        assert asyncio.get_running_loop().time() == start

    run(main())


def test_a_rest_is_kept_and_a_limit_too() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with PollSchedule().flight(fresh=False) as flight:
            await flight.wait(7, PATIENCE)
            assert loop.time() >= 7
            await flight.wait(0, 0.001)
            assert loop.time() < 7.1

    run(main())


@pytest.mark.parametrize("first", [0.2, 0.5])
def test_a_backoff_doubles_up_to_its_limit(first: float) -> None:
    waits = backoff(first, most=3.0)
    most = first
    for _ in range(8):
        assert most / 2 <= next(waits) <= most
        most = min(most * 2, 3.0)
