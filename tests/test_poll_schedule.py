"""When polls are made, on an event loop whose time passes at once."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median

import pytest

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.steps.poll_schedule import MAX_INTERVAL, MIN_INTERVAL, PollSchedule
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from tests.support.quick_loop import PATIENCE, evenly, run


@dataclass
class Seen:
    """How long each prediction of a run took, when it was polled, and when that was noticed."""

    took: list[float] = field(default_factory=list)
    polls: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def delays(self) -> list[float]:
        return [polls[-1] - took for took, polls in zip(self.took, self.polls, strict=True)]

    @property
    def polls_each(self) -> float:
        return mean(len(polls) for polls in self.polls)


@dataclass
class Limited:
    """Answers so many result calls a second, and refuses the others."""

    a_second: float
    retry_after: float | None = None
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def answers(self) -> bool:
        now = asyncio.get_running_loop().time()
        lately = sum(at > now - 1 for at in self.answered[-int(self.a_second) - 1 :])
        (self.answered if lately < self.a_second else self.refused).append(now)
        return lately < self.a_second


async def watch(
    schedule: PollSchedule, took: float, reported: float | None, seen: Seen, least: float, api: Limited | None
) -> None:
    """Poll a prediction that takes ``took`` seconds, as far as the API reports that."""
    loop = asyncio.get_running_loop()
    start, polls = loop.time(), []
    with schedule.flight(fresh=True, least=least) as flight:
        while True:
            await flight.wait(0, PATIENCE)
            polls.append(loop.time() - start)
            if api and not api.answers():
                flight.refused(api.retry_after)
                continue
            flight.answered()
            if polls[-1] >= took:
                flight.ready(reported)
                break
            flight.not_ready()
    seen.took.append(took)
    seen.polls.append(polls)


async def fly(
    took: Iterator[float],
    in_flight: int,
    *,
    reported: bool = True,
    schedule: PollSchedule | None = None,
    least: float = MIN_INTERVAL,
    api: Limited | None = None,
) -> Seen:
    """Poll many predictions, ``in_flight`` at once."""
    schedule, seen = schedule or PollSchedule(), Seen()
    slots = asyncio.Semaphore(in_flight)

    async def one(seconds: float) -> None:
        async with slots:
            await watch(schedule, seconds, seconds if reported else None, seen, least, api)

    await asyncio.gather(*(one(seconds) for seconds in took))
    seen.seconds = asyncio.get_running_loop().time()
    return seen


@pytest.mark.parametrize(("reported", "share", "polls"), [(True, 0.95, 4.5), (False, 0.93, 5.2)])
def test_six_hundred_images_come_close_to_a_perfect_scheduler(
    reported: bool, share: float, polls: float
) -> None:
    """Polls each second, as the vendor's SDK makes them, are 4.5 an image and notice after 0.5 s (p50)."""

    async def main() -> None:
        took = list(evenly(2, 4, 600))
        seen = await fly(iter(took), 200, reported=reported)
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
        schedule = PollSchedule()
        await fly(evenly(low, high, 100), 50, schedule=schedule)
        seen = await fly(evenly(low, high, 300), 50, schedule=schedule)
        assert median(seen.delays) < max(0.1, (high - low) / 8)
        assert seen.polls_each < (6 if high < 100 else 15)

    run(main())


def test_before_the_first_estimate_a_few_are_polled_often_and_the_others_wait_for_them() -> None:
    async def main() -> None:
        seen = await fly(evenly(6, 9, 200), 200)
        early = [sum(poll < 6 for poll in polls) for polls in seen.polls]
        assert 1 <= sum(count > 0 for count in early) <= 8
        assert median(seen.delays) < 0.6

    run(main())


def test_nobody_waits_for_ever_for_scouts_that_are_slow() -> None:
    async def main() -> None:
        slow = iter([500.0] * 8 + [5.0] * 50)
        seen = await fly(slow, 100)
        quick = [delay for took, delay in zip(seen.took, seen.delays, strict=True) if took == 5]
        assert max(quick) <= MAX_INTERVAL

    run(main())


def test_an_overdue_prediction_is_polled_ever_less_often_but_never_forgotten() -> None:
    async def main() -> None:
        schedule = PollSchedule()
        await fly(evenly(2, 4, 100), 50, schedule=schedule)
        seen = await fly(iter([300.0]), 1, schedule=schedule)
        (polls,) = seen.polls
        gaps = [later - earlier for earlier, later in pairwise(polls)]
        assert round(max(gaps), 9) <= MAX_INTERVAL
        assert min(gaps[-10:]) > MAX_INTERVAL / 2
        assert len(polls) < 60

    run(main())


def test_a_change_of_speed_is_learnt() -> None:
    async def main() -> None:
        schedule = PollSchedule()
        await fly(evenly(2, 4, 300), 50, schedule=schedule)
        await fly(evenly(20, 24, 400), 50, schedule=schedule)
        seen = await fly(evenly(20, 24, 100), 50, schedule=schedule)
        assert seen.polls_each < 6
        assert median(seen.delays) < 0.5

    run(main())


def test_what_may_be_ready_already_is_polled_at_once() -> None:
    async def main() -> None:
        schedule = PollSchedule()
        await fly(evenly(2, 4, 100), 50, schedule=schedule)
        start = asyncio.get_running_loop().time()
        with schedule.flight(fresh=False) as flight:
            await flight.wait(0, PATIENCE)
        assert asyncio.get_running_loop().time() == start

    run(main())


def test_neither_bound_of_a_wait_is_passed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with PollSchedule().flight(fresh=False) as flight:
            await flight.wait(7, PATIENCE)
            assert loop.time() >= 7
            await flight.wait(0, 0.001)
            assert loop.time() < 7.1

    run(main())


def test_a_flood_of_notices_does_not_make_polls_follow_each_other() -> None:
    async def main() -> None:
        loop, inbox, polls = asyncio.get_running_loop(), WebhookInbox(), 0
        inbox.start()
        with (
            inbox.watch("p") as notice,
            PollSchedule().flight(fresh=False, notice=notice, least=0.5) as flight,
        ):
            while loop.time() < 10 and polls < 1000:
                inbox.deliver(Prediction(id="p", status="failed"))
                await flight.wait(0, PATIENCE)
                notice.read()
                polls += 1
        assert polls <= 21

    run(main())


@pytest.mark.parametrize("least", [0.1, 2.0])
def test_two_polls_of_one_prediction_are_never_closer_than_asked_for(least: float) -> None:
    async def main() -> None:
        schedule = PollSchedule()
        for low, high in ((0.3, 0.4), (4, 9)):
            seen = await fly(evenly(low, high, 60), 20, schedule=schedule, least=least)
            gaps = [later - earlier for polls in seen.polls for earlier, later in pairwise(polls)]
            assert not gaps or min(gaps) >= least - 1e-9

    run(main())


@pytest.mark.parametrize(("a_second", "seconds"), [(20, 30), (5, 80)])
def test_refused_polls_slow_all_down_until_few_are_refused(a_second: int, seconds: float) -> None:
    """A hundred images are polled a hundred times at the least."""

    async def main() -> None:
        api = Limited(a_second)
        seen = await fly(evenly(6, 8, 100), 100, api=api)
        assert len(seen.took) == 100
        assert seen.seconds < seconds
        assert len(api.refused) < 40

    run(main())


def test_a_pause_after_a_refused_poll_is_everybodys_and_as_long_as_the_answer_says() -> None:
    async def main() -> None:
        api = Limited(10, retry_after=30)
        await fly(evenly(2, 3, 100), 100, api=api)
        first = api.refused[0]
        assert [at for at in (*api.answered, *api.refused) if first < at < first + 30] == []

    run(main())


def test_polling_recovers_after_refusals() -> None:
    async def main() -> None:
        schedule = PollSchedule()
        await fly(evenly(2, 4, 200), 50, schedule=schedule, api=Limited(10))
        await fly(evenly(2, 4, 400), 50, schedule=schedule)
        seen = await fly(evenly(2, 4, 100), 50, schedule=schedule)
        assert median(seen.delays) < 0.3

    run(main())
