"""With webhooks hardly any poll is made; without them, polling finds everything. Time passes at once here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean, median

import pytest

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.steps.poll_schedule import MAX_INTERVAL, PollSchedule
from prefect_wavespeed.steps.webhook_inbox import GRACE, WebhookInbox
from tests.support.quick_loop import PATIENCE, evenly, run

Sent = Callable[[], list[float]]
"""Seconds after a prediction's end at which its webhooks come."""


@dataclass
class Seen:
    """How often each prediction was polled, and how late its end was noticed."""

    polls: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    @property
    def polls_each(self) -> float:
        return mean(self.polls)


def ended(name: str) -> Prediction:
    return Prediction(id=name, status="completed", outputs=["https://cdn.example.com/1.jpeg"])


class World:
    """Predictions, and the webhooks about them."""

    def __init__(self, sent: Sent) -> None:
        self.schedule, self.inbox = PollSchedule(), WebhookInbox()
        self.inbox.start()
        self.sent = sent
        self._names = iter(range(10**9))

    async def fly(self, took: Iterator[float], in_flight: int) -> Seen:
        """Watch many predictions, ``in_flight`` at once."""
        seen, slots = Seen(), asyncio.Semaphore(in_flight)

        async def one(seconds: float) -> None:
            async with slots:
                await self._watch(str(next(self._names)), seconds, seen)

        await asyncio.gather(*(one(seconds) for seconds in took))
        return seen

    async def _watch(self, name: str, took: float, seen: Seen) -> None:
        loop = asyncio.get_running_loop()
        start, polls = loop.time(), 0
        for late in self.sent():
            loop.call_later(took + late, self.inbox.deliver, ended(name))
        with self.inbox.watch(name) as notice, self.schedule.flight(fresh=True, notice=notice) as flight:
            while True:
                await flight.wait(0, PATIENCE)
                if notice.read():
                    break
                polls += 1
                if loop.time() - start >= took:
                    break
                flight.not_ready()
            flight.ready(took)
        seen.polls.append(polls)
        seen.delays.append(loop.time() - start - took)


def soon() -> list[float]:
    return [random.uniform(0.05, 0.3)]


def never() -> list[float]:
    return []


@pytest.mark.parametrize(("low", "high"), [(0.05, 0.1), (2, 4), (5, 12), (20, 28)])
def test_where_webhooks_arrive_almost_nothing_is_polled_and_nothing_is_noticed_late(
    low: float, high: float
) -> None:
    async def main() -> None:
        world = World(soon)
        first = await world.fly(evenly(low, high, 200), 200)
        assert first.polls_each < (0.02 if low < MAX_INTERVAL else 3)
        seen = await world.fly(evenly(low, high, 600), 200)
        assert seen.polls_each < 0.02
        assert max(seen.delays) < 0.31

    run(main())


def test_what_takes_far_longer_than_the_shortest_is_polled_now_and_then() -> None:
    """Or it would wait for ever where webhooks have just stopped."""

    async def main() -> None:
        seen = await World(soon).fly(evenly(20, 60, 600), 200)
        assert seen.polls_each < 3
        assert max(seen.delays) < 0.31

    run(main())


@pytest.mark.parametrize("in_flight", [1, 200])
def test_where_no_webhook_ever_arrives_polling_is_as_without_them(in_flight: int) -> None:
    async def main() -> None:
        world = World(never)
        first = await world.fly(evenly(2, 4, in_flight), in_flight)
        assert max(first.delays) <= MAX_INTERVAL + 1
        assert not world.inbox.reliable
        seen = await world.fly(evenly(2, 4, 300), in_flight)
        assert median(seen.delays) < 0.25
        assert 2 < seen.polls_each < 5.2

    run(main())


def test_where_webhooks_stop_polling_takes_over_within_seconds_until_they_return() -> None:
    async def main() -> None:
        world = World(soon)
        await world.fly(evenly(2, 4, 300), 50)
        world.sent = never
        seen = await world.fly(evenly(2, 4, 50), 50)
        assert max(seen.delays) < MAX_INTERVAL
        seen = await world.fly(evenly(2, 4, 300), 50)
        assert median(seen.delays) < 0.25
        world.sent = soon
        await world.fly(evenly(2, 4, 100), 50)
        seen = await world.fly(evenly(2, 4, 300), 50)
        assert seen.polls_each < 0.1

    run(main())


def test_where_half_of_the_webhooks_are_lost_polling_goes_on_and_the_others_save_polls() -> None:
    async def main() -> None:
        world = World(lambda: soon() if random.random() < 0.5 else [])
        await world.fly(evenly(2, 4, 100), 50)
        seen = await world.fly(evenly(2, 4, 600), 50)
        assert median(seen.delays) < 0.25
        assert max(seen.delays) < GRACE + 3
        assert seen.polls_each < 4.5

    run(main())


def test_late_webhooks_are_not_waited_for() -> None:
    async def main() -> None:
        world = World(lambda: [5.0])
        first = await world.fly(evenly(2, 4, 200), 200)
        assert max(first.delays) <= 5.01
        seen = await world.fly(evenly(2, 4, 300), 50)
        assert median(seen.delays) < 0.25

    run(main())


def test_doubled_webhooks_are_as_good_as_one() -> None:
    async def main() -> None:
        seen = await World(lambda: [0.1, 0.1, 4.0]).fly(evenly(2, 4, 300), 50)
        assert seen.polls_each < 0.05
        assert max(seen.delays) < 0.11

    run(main())


def test_a_notice_that_came_before_anybody_watched_is_delivered() -> None:
    async def main() -> None:
        world = World(never)
        world.inbox.deliver(ended("0"))
        seen = await world.fly(iter([0.0]), 1)
        assert (seen.polls, seen.delays) == ([0], [0.0])

    run(main())


def test_notices_that_nobody_watches_are_dropped_before_they_fill_the_memory() -> None:
    async def main() -> None:
        inbox = WebhookInbox()
        for number in range(20_000):
            inbox.deliver(ended(str(number)))
        with inbox.watch("19999") as newest, inbox.watch("0") as oldest:
            assert newest.read()
            assert oldest.read() is None

    run(main())


def test_all_that_watch_one_prediction_get_its_notice() -> None:
    async def main() -> None:
        inbox = WebhookInbox()
        with inbox.watch("p") as first, inbox.watch("p") as second:
            inbox.deliver(ended("p"))
            assert first.read()
            assert first.read() is None
            assert second.read()

    run(main())


def test_while_no_notice_can_arrive_polls_are_as_without_webhooks() -> None:
    async def main() -> None:
        world = World(soon)
        await world.fly(evenly(2, 4, 200), 50)
        world.inbox.stop()
        world.sent = never
        seen = await world.fly(evenly(2, 4, 300), 50)
        assert median(seen.delays) < 0.2
        assert seen.polls_each < 5.2

    run(main())


def test_a_notice_ends_the_wait_for_it() -> None:
    async def main() -> None:
        inbox, loop = WebhookInbox(), asyncio.get_running_loop()
        with inbox.watch("p") as notice:
            loop.call_later(3, inbox.deliver, ended("p"))
            await notice.wait(100)
            assert loop.time() == 3
            await notice.wait(100)  # it is unread
            assert loop.time() == 3
            assert notice.read()
            await notice.wait(100)
            assert loop.time() == 103

    run(main())


@pytest.mark.parametrize(
    ("notices", "reliable"),
    [
        ("", True),
        ("-", False),  # at first one that is missing is enough
        ("+-", False),
        ("+++++-", True),  # after a good while it takes two in a row
        ("+++++--", False),
        ("+++++-+-", False),
        ("-++++", True),  # four in time make up for one that was missing
        ("-+++", False),
        ("--+++++", True),
    ],
)
def test_notices_are_relied_on_by_how_many_came_in_time(notices: str, reliable: bool) -> None:
    """``+`` is a notice within the grace period after a prediction's end, ``-`` one that is missing."""

    async def main() -> None:
        inbox = WebhookInbox()
        inbox.start()
        for number, mark in enumerate(notices):
            inbox.expect(str(number), GRACE)
            if mark == "+":
                inbox.deliver(ended(str(number)))
            await asyncio.sleep(GRACE + 1)
        assert inbox.reliable is reliable

    run(main())


def test_a_late_notice_counts_as_missing() -> None:
    async def main() -> None:
        inbox = WebhookInbox()
        inbox.start()
        inbox.expect("p", GRACE)
        asyncio.get_running_loop().call_later(GRACE + 0.1, inbox.deliver, ended("p"))
        await asyncio.sleep(GRACE + 1)
        assert not inbox.reliable

    run(main())


def test_a_notice_is_missing_only_while_notices_can_arrive() -> None:
    async def main() -> None:
        inbox = WebhookInbox()
        with inbox.watch("p") as notice:
            assert (notice.missing, notice.reliable) == (False, False)
            inbox.start()
            assert (notice.missing, notice.reliable) == (True, True)
            inbox.deliver(ended("p"))  # then there is nothing to wait for
            assert (notice.missing, notice.reliable) == (False, False)
            inbox.stop()
            assert not inbox.reliable

    run(main())
