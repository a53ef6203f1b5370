"""Submissions after a 429: what is learnt of the limits, on a clock of its own, and how turns are given."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from prefect_wavespeed.api.pacing import Grant, Limits, Pace
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import RateLimitedError


@dataclass
class Simulation:
    """Jobs that submit to an API with limits, on one clock; nothing takes real time.

    Attributes:
        places: predictions that the API takes in flight.
        a_minute: submissions that it takes in any 60 seconds.
        fixed: its minutes are those of the clock, not the last 60 seconds.
        latency: seconds that a prediction takes.
        notice: seconds until its end is seen here.
        answer: seconds that the answer to a POST takes.
        retry_after: whether a 429 says how long to wait.
        refused: when a POST was refused.
    """

    places: float = math.inf
    a_minute: float = math.inf
    fixed: bool = False
    latency: float = 1.0
    notice: float = 0.1
    answer: float = 0.05
    retry_after: float | None = None
    now: float = 0.0
    refused: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    most_at_once: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        self.limits = Limits(jitter=lambda low, high: (low + high) / 2)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._waiting = 0
        self._in_flight = 0
        self._window: deque[float] = deque()
        self._ids = itertools.count()
        self._wake_at = math.inf

    def run(self, jobs: int, until: float = math.inf) -> float:
        """Let so many jobs begin now, until all are done; return the seconds it took."""
        began, goal = self.now, self.done + self._waiting + jobs
        self._waiting += jobs
        self._pump()
        while self.done < goal and self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()
            self._pump()
        return self.now - began

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), act))

    def _pump(self) -> None:
        sent = 0
        while self._waiting and (grant := self.limits.grant(self.now)):
            self._waiting -= 1
            sent += 1
            self._after(self.answer / 2, lambda grant=grant: self._arrive(grant))  # type: ignore[misc]
        self.most_at_once = max(self.most_at_once, sent)
        chance = self.now + self.limits.next_chance(self.now)
        if self._waiting and chance < math.inf and chance != self._wake_at:
            self._wake_at = chance
            self._after(chance - self.now, lambda: None)

    def _arrive(self, grant: Grant) -> None:
        start = self.now // 60 * 60 if self.fixed else self.now - 60
        while self._window and self._window[0] <= start - (1e-9 if self.fixed else 0):
            self._window.popleft()
        if self._in_flight >= self.places or len(self._window) >= self.a_minute:
            self.refused.append(self.now)
            self._after(self.answer / 2, lambda: self._is_refused(grant))
            return
        self._window.append(self.now)
        self.accepted.append(self.now)
        self._in_flight += 1
        prediction_id = str(next(self._ids))
        self._after(self.answer / 2, lambda: self.limits.accepted(grant, prediction_id, self.now))
        self._after(self.latency, self._end)
        self._after(self.latency + self.notice, lambda: self._see(prediction_id))

    def _is_refused(self, grant: Grant) -> None:
        self.limits.refused(grant, self.retry_after, self.now)
        self._waiting += 1

    def _end(self) -> None:
        self._in_flight -= 1

    def _see(self, prediction_id: str) -> None:
        self.done += 1
        self.limits.ended(prediction_id)


def test_without_a_refusal_nothing_waits() -> None:
    simulation = Simulation()
    assert simulation.run(5000) < 2
    assert simulation.most_at_once == 5000


# The ideal is what the limits allow: jobs / places * latency, and full minutes.
@pytest.mark.parametrize(
    ("api", "jobs", "ideal", "refused"),
    [
        (Simulation(places=4), 24, 6, 1),
        (Simulation(places=4, notice=0.3), 24, 6, 1),
        (Simulation(places=4, latency=8), 24, 48, 1.1),
        (Simulation(places=4), 200, 50, 1.1),
        (Simulation(places=30, latency=8, answer=0.5), 600, 160, 1.1),
        (Simulation(a_minute=2, places=2), 24, 660, 2.5),
        (Simulation(a_minute=2, places=2, latency=10, fixed=True, now=17), 24, 660, 2.5),
        (Simulation(a_minute=30), 120, 180, 1),
        (Simulation(a_minute=30, latency=5, fixed=True, now=23), 120, 180, 1),
        (Simulation(a_minute=500, places=300, latency=8, answer=0.4), 3000, 300, 1.2),
        (Simulation(a_minute=500, places=300, latency=60, answer=0.4), 3000, 600, 1.2),
        (Simulation(places=4, retry_after=1), 24, 6, 1.2),
        (Simulation(a_minute=30, retry_after=20), 120, 180, 1),
    ],
    ids=lambda value: repr(value) if isinstance(value, Simulation) else None,
)
def test_the_limits_are_used_and_seldom_exceeded(
    api: Simulation, jobs: int, ideal: float, refused: float
) -> None:
    """All jobs begin at once, when nothing is known: all that do not fit are refused once."""
    assert api.run(jobs) <= 1.35 * ideal
    assert len(api.refused) <= refused * jobs


@pytest.mark.parametrize("api", [Simulation(places=8, answer=0.2), Simulation(a_minute=40, answer=0.2)])
def test_never_again_do_many_go_at_once(api: Simulation) -> None:
    api.run(200)
    first = min(api.refused)
    stampedes = [sum(at <= other < at + 1 for other in api.refused) for at in api.refused if at > first + 1]
    assert max(stampedes) <= 14  # a quarter of what a minute takes, and the few that find that out


def test_an_api_that_takes_nothing_is_probed_ever_more_seldom() -> None:
    api = Simulation(places=0)
    api.run(10, until=300)
    probes = [at for at in api.refused if at > 0.1]
    pauses = [after - before for before, after in itertools.pairwise(probes)]
    assert pauses[:5] == pytest.approx([1.75, 3.5, 7, 14, 28], abs=0.1)
    assert pauses[5:] == pytest.approx([52.5] * len(pauses[5:]), abs=0.1)


@pytest.mark.parametrize("later", [1, 16, math.inf])
def test_places_that_become_more_or_fewer_are_found(later: float) -> None:
    api = Simulation(places=4)
    api.run(40)
    api.places = later
    seconds, refused = api.run(200), len(api.refused)
    assert seconds <= {1: 230, 16: 60, math.inf: 60}[later]
    assert refused <= 250


def test_retry_after_is_waited_for_by_all_and_one_goes_first() -> None:
    api = Simulation(places=4, latency=30, retry_after=20)
    api.run(10, until=45)
    later = sorted(at for at in (*api.accepted, *api.refused) if at > 0.1)
    assert later[:2] == pytest.approx([20, 40], abs=0.2)
    assert len(set(later[1:5])) > 1


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_retry_after_that_allows_everything_at_once_removes_no_pause(seconds: float) -> None:
    api = Simulation(places=1, latency=60, retry_after=seconds)
    api.run(10, until=300)
    assert len(api.refused) <= 20


def test_an_absurd_retry_after_does_not_close_a_process_for_ever() -> None:
    for seconds in (86_400.0, 1e9, math.inf):
        limits = Limits()
        grant = limits.grant(0.0)
        assert grant
        limits.refused(grant, seconds, 0.0)
        assert limits.closed_for(0.0) == 3600
        assert limits.grant(3601.0)


def test_a_turn_that_is_never_ended_and_a_prediction_that_nobody_follows_are_forgotten() -> None:
    limits = Limits(jitter=lambda low, high: high)
    held = [limits.grant(0.0) for _ in range(3)]
    assert all(held)
    limits.accepted(held[0], "p1", 0.0)  # type: ignore[arg-type]
    limits.refused(held[1], None, 0.0)  # type: ignore[arg-type]
    assert limits.grant(1.5) is None  # held[2] is out
    again = limits.grant(200.0)
    assert again
    limits.refused(again, None, 200.0)
    assert limits.grant(200.5) is None  # p1 has the only place
    place = limits.grant(700.0)
    assert place
    assert not place.is_probe


# Turns


async def hold(pace: Pace, patience: float = 9.0) -> None:
    """Learn that one place is all there is, and occupy it."""
    first, second = await pace.turn(patience), await pace.turn(patience)
    first.accepted(Prediction(id="p1"))
    second.refused(None)


async def test_turns_are_given_in_order_one_as_soon_as_a_place_is_free() -> None:
    pace, order = Pace(clock=lambda: 0.0), list[int]()

    async def wait(number: int) -> None:
        turn = await pace.turn(9)
        order.append(number)
        turn.accepted(Prediction(id=f"w{number}"))

    await hold(pace)
    waiting = [asyncio.create_task(wait(number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    for ended in ("p1", "w0", "w1", "w3"):
        await asyncio.sleep(0.01)
        count = len(order)
        pace.ended(ended)
        await asyncio.sleep(0.01)
        assert len(order) == count + 1
    assert order == [0, 1, 3, 4]


async def test_a_turn_that_is_given_back_is_the_next_ones() -> None:
    pace = Pace(clock=lambda: 0.0)
    await hold(pace)
    pace.ended("p1")
    turn = await pace.turn(9)
    next_one = asyncio.create_task(pace.turn(9))
    await asyncio.sleep(0.01)
    assert not next_one.done()
    turn.give_back()
    turn.give_back()
    await asyncio.wait_for(next_one, 1)


async def test_whose_turn_does_not_come_while_nothing_is_accepted_gives_up() -> None:
    pace = Pace()
    await hold(pace)
    with pytest.raises(RateLimitedError, match=r"nothing was accepted for 0\.1 s, and nothing was sent"):
        await asyncio.wait_for(pace.turn(0.1), 1)


async def test_whose_turn_does_not_come_waits_on_while_others_are_accepted() -> None:
    pace = Pace()
    await hold(pace)
    last = asyncio.create_task(_last_of(pace, 6))
    for number in range(6):
        await asyncio.sleep(0.06)
        pace.ended(f"w{number - 1}" if number else "p1")
    assert await asyncio.wait_for(last, 1) > 0.2


async def _last_of(pace: Pace, count: int) -> float:
    start = time.monotonic()

    async def wait(number: int) -> None:
        (await pace.turn(0.2)).accepted(Prediction(id=f"w{number}"))

    await asyncio.gather(*(wait(number) for number in range(count)))
    return time.monotonic() - start


async def test_a_retry_after_that_is_too_long_to_wait_for_is_told_at_once() -> None:
    pace = Pace()
    (await pace.turn(9)).refused(3600)
    with pytest.raises(RateLimitedError) as caught:
        await asyncio.wait_for(pace.turn(900), 1)
    assert caught.value.retry_after == pytest.approx(3600, abs=5)


async def test_clients_in_other_threads_wait_in_the_same_line() -> None:
    pace = Pace(clock=lambda: 0.0)
    await hold(pace)
    started, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        async def wait() -> None:
            started.set()
            (await pace.turn(9)).give_back()
            done.set()

        asyncio.run(wait())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert await asyncio.to_thread(started.wait, 5)
    await asyncio.sleep(0.05)
    assert not done.is_set()
    pace.ended("p1")
    assert await asyncio.to_thread(done.wait, 5)
    await asyncio.to_thread(thread.join)


async def test_one_whose_event_loop_is_gone_does_not_hold_up_the_line() -> None:
    pace = Pace(clock=lambda: 0.0)
    await hold(pace)

    def leave() -> None:
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(pace.turn(9))
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        assert not waiting.done()

    await asyncio.to_thread(leave)
    pace.ended("p1")
    await asyncio.wait_for(pace.turn(9), 1)
