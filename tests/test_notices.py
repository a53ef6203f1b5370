"""With webhooks hardly anything is asked for; without them, everything is found all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
from aiohttp import web

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import seal, unseal, verify_webhook
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.steps.poll_schedule import MAX_INTERVAL, PollSchedule
from prefect_wavespeed.steps.webhook_inbox import GRACE, WebhookInbox
from tests.support.emulator_process import Emulator
from tests.support.engine import SMALL, restyle
from tests.test_pace import PATIENCE, evenly, run

Sent = Callable[[], list[float]]
"""Seconds after a prediction's end at which its webhooks come."""


@dataclass
class Seen:
    """What came of the predictions: how often each was asked for, and how late it was noticed."""

    polls: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    @property
    def polls_each(self) -> float:
        return mean(self.polls)


def ended(name: str) -> Prediction:
    return Prediction(id=name, status="completed", outputs=["https://cdn.example.com/1.jpeg"])


class World:
    """Predictions, and webhooks that tell of them."""

    def __init__(self, sent: Sent) -> None:
        self.pace, self.inbox = PollSchedule(), WebhookInbox()
        self.inbox.start()
        self.sent = sent
        self._names = iter(range(10**9))

    async def fly(self, took: Iterator[float], in_flight: int) -> Seen:
        """Watch many predictions, so many at once."""
        seen, places = Seen(), asyncio.Semaphore(in_flight)

        async def one(seconds: float) -> None:
            async with places:
                await self._watch(str(next(self._names)), seconds, seen)

        await asyncio.gather(*(one(seconds) for seconds in took))
        return seen

    async def _watch(self, name: str, took: float, seen: Seen) -> None:
        loop = asyncio.get_running_loop()
        start, polls = loop.time(), 0
        for late in self.sent():
            loop.call_later(took + late, self.inbox.deliver, ended(name))
        with self.inbox.watch(name) as notice, self.pace.flight(fresh=True, notice=notice) as flight:
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
def test_where_webhooks_come_almost_nothing_is_asked_for_and_nothing_is_noticed_late(
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


def test_what_takes_far_longer_than_the_shortest_is_asked_for_now_and_then() -> None:
    """So that nothing waits for ever where webhooks have just ceased to come."""

    async def main() -> None:
        seen = await World(soon).fly(evenly(20, 60, 600), 200)
        assert seen.polls_each < 3
        assert max(seen.delays) < 0.31

    run(main())


@pytest.mark.parametrize("in_flight", [1, 200])
def test_where_no_webhook_ever_comes_polling_goes_on_as_if_there_were_none(in_flight: int) -> None:
    async def main() -> None:
        world = World(never)
        first = await world.fly(evenly(2, 4, in_flight), in_flight)
        assert max(first.delays) <= MAX_INTERVAL + 1
        assert not world.inbox.reliable
        seen = await world.fly(evenly(2, 4, 300), in_flight)
        assert median(seen.delays) < 0.25
        assert 2 < seen.polls_each < 5.2

    run(main())


def test_where_webhooks_cease_to_come_polling_takes_over_within_seconds_and_leaves_off_when_they_return() -> (
    None
):
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


def test_where_half_of_the_webhooks_are_lost_polling_goes_on_and_those_that_come_spare_polls() -> None:
    async def main() -> None:
        world = World(lambda: soon() if random.random() < 0.5 else [])
        await world.fly(evenly(2, 4, 100), 50)
        seen = await world.fly(evenly(2, 4, 600), 50)
        assert median(seen.delays) < 0.25
        assert max(seen.delays) < GRACE + 3
        assert seen.polls_each < 4.5

    run(main())


def test_webhooks_that_come_late_are_not_waited_for() -> None:
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


def test_what_was_told_before_anybody_waited_is_known() -> None:
    async def main() -> None:
        world = World(never)
        world.inbox.deliver(ended("0"))
        seen = await world.fly(iter([0.0]), 1)
        assert (seen.polls, seen.delays) == ([0], [0.0])

    run(main())


def test_what_nobody_waits_for_is_forgotten_before_it_fills_the_memory() -> None:
    async def main() -> None:
        inbox = WebhookInbox()
        for number in range(20_000):
            inbox.deliver(ended(str(number)))
        with inbox.watch("19999") as newest, inbox.watch("0") as oldest:
            assert newest.read()
            assert oldest.read() is None

    run(main())


def test_all_that_wait_for_one_prediction_are_told() -> None:
    async def main() -> None:
        inbox = WebhookInbox()
        with inbox.watch("p") as first, inbox.watch("p") as second:
            inbox.deliver(ended("p"))
            assert first.read()
            assert first.read() is None
            assert second.read()

    run(main())


def test_when_nothing_is_listened_for_any_more_polls_are_as_without_webhooks() -> None:
    async def main() -> None:
        world = World(soon)
        await world.fly(evenly(2, 4, 200), 50)
        world.inbox.stop()
        world.sent = never
        seen = await world.fly(evenly(2, 4, 300), 50)
        assert median(seen.delays) < 0.2
        assert seen.polls_each < 5.2

    run(main())


@asynccontextmanager
async def told(emulator: Emulator) -> AsyncIterator[dict[str, Any]]:
    """Where webhooks come in, are verified, sealed, unsealed and told; what to restyle with."""
    inbox = WebhookInbox()
    inbox.start()
    async with WaveSpeedClient("test-key", emulator.url) as client:
        secret = await client.webhook_secret()

    async def take(request: web.Request) -> web.Response:
        prediction = verify_webhook(request.headers, await request.read(), secret)
        inbox.deliver(unseal(seal(prediction, secret), secret))
        return web.Response()

    app = web.Application(client_max_size=1 << 25)
    app.router.add_post("/wavespeed", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield {"inbox": inbox, "webhook_url": f"http://{host}:{port}/wavespeed?token=s3cret"}
    finally:
        await runner.cleanup()


def results_asked(emulator: Emulator) -> int:
    asked: int = emulator.ledger()["calls"]["result"]
    return asked


async def test_a_picture_that_a_webhook_brings_is_stored_without_asking(
    emulator: Emulator, tmp_path: Path
) -> None:
    async with told(emulator) as terms:
        restyled = await restyle(emulator.url, str(tmp_path), **terms)
    assert [output.width for output in restyled.outputs] == [256]
    assert emulator.ledger()["billed"] == 1
    assert results_asked(emulator) == 0
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert b"s3cret" not in written


async def test_pictures_that_are_no_urls_are_asked_for_once_they_are_ready(
    emulator: Emulator, tmp_path: Path
) -> None:
    params = SMALL.model_copy(update={"enable_base64_output": True})
    async with told(emulator) as terms:
        restyled = await restyle(emulator.url, str(tmp_path), params=params, **terms)
    assert [output.width for output in restyled.outputs] == [256]
    assert results_asked(emulator) == 1


async def test_a_notice_of_a_failure_makes_it_be_asked_for_and_the_answer_counts(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}])
    async with told(emulator) as terms:
        with pytest.raises(PredictionFailedError, match="moderated"):
            await restyle(emulator.url, str(tmp_path), **terms)
    assert results_asked(emulator) == 1
    assert emulator.ledger()["billed"] == 0


async def test_after_a_failure_that_may_pass_the_next_attempt_is_told_as_well(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults([{"on": "prediction", "fault": "timeout"}])
    async with told(emulator) as terms:
        await restyle(emulator.url, str(tmp_path), **terms)
    assert len(emulator.ledger()["predictions"]) == 2
    assert emulator.ledger()["billed"] == 1


@pytest.mark.parametrize("status", ["failed", "cancelled", "deleted", "whatever", "completed", "processing"])
async def test_a_notice_without_pictures_is_not_believed(
    emulator: Emulator, tmp_path: Path, status: str
) -> None:
    """Polling is the truth: such a notice may be late, or of another time."""
    inbox = WebhookInbox()
    inbox.start()

    async def tell_of_all() -> None:
        while True:
            for prediction in emulator.ledger()["predictions"]:
                inbox.deliver(Prediction(id=prediction["id"], status=status))
            await asyncio.sleep(0.03)

    running = asyncio.create_task(tell_of_all())
    try:
        restyled = await restyle(emulator.url, str(tmp_path), inbox=inbox)
    finally:
        running.cancel()
    assert [output.width for output in restyled.outputs] == [256]
    assert emulator.ledger()["billed"] == len(emulator.ledger()["predictions"]) == 1
