"""When to submit after a 429: never all at once, and as fast as the account's limits let through.

The limits are not known beforehand, and a 429 seldom says which one was met or how long to wait. So they are
learnt. After a refusal as many predictions may be in flight as were then: their places. When one of ours has
ended, its place is taken at once. Beyond that a single submission probes, after a pause that grows with every
refusal and shrinks with every success. Where even free places are refused, the limit is one a minute: then
only probes go, one of them when the oldest submission is a minute old. After a refusal one POST goes at a
time, and with every success a few more.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import RateLimitedError

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
_LONGEST_CLOSURE = 3600.0  # no answer, however absurd, keeps a process from submitting for longer
_SHORTEST_PAUSE = 0.05  # a pause that has shrunk below it means that the limit is gone
_JITTER = (0.75, 1.0)
_WINDOW = 60.0  # the limits reset every minute
_WINDOW_MARGIN = 0.25
_GROWTH = 0.25  # turns more at once for each success: too many is at most a quarter of what was accepted
_EARLY_REFUSALS = 2  # of free places in a row, until they are no longer believed in
# Seconds after which a prediction that nobody follows counts as ended, and a turn as given back.
_FORGOTTEN = 600.0
_LONGEST_TURN = 180.0
_LOOK_AGAIN = 30.0  # in case a turn was not ended

_Key = TypeVar("_Key")


@dataclass(frozen=True, eq=False)
class Grant:
    """Leave to submit once.

    Attributes:
        refusals: how many had taught something when it was given.
        is_probe: it goes beyond the places that are known.
    """

    refusals: int
    is_probe: bool


class Limits:
    """What is known of the limits: pure, with the time given. ``Pace`` keeps it and does the waiting."""

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self.accepted_at = -math.inf  # the last one
        self._jitter = jitter
        self._in_flight: dict[str, float] = {}  # since when, by prediction
        self._accepted: deque[float] = deque()  # in the last minute
        self._out: dict[Grant, float] = {}  # since when
        self._refusals = 0  # that have taught something
        self._places: int | None = None  # None: none were missed
        self._allowance = math.inf  # turns that may be out at once
        self._early_refusals = 0
        self._pause = 0.0
        self._resume_at = -math.inf  # when a probe may go
        self._closed_until = -math.inf  # by Retry-After

    def grant(self, now: float) -> Grant | None:
        """Let a submission go, if one may go now."""
        self._forget(now)
        is_probe = False
        if now < self._closed_until or len(self._out) + 1 > self._allowance:
            return None
        if not self._has_place():
            if now < self._resume_at or any(grant.is_probe for grant in self._out):
                return None
            is_probe = True
        grant = Grant(self._refusals, is_probe)
        self._out[grant] = now
        return grant

    def next_chance(self, now: float) -> float:
        """Seconds until time alone may let one go; infinite where it depends on others."""
        if len(self._out) + 1 > self._allowance:
            return math.inf
        if now < self._closed_until or self._has_place():
            return max(self._closed_until - now, 0)
        return math.inf if any(grant.is_probe for grant in self._out) else max(self._resume_at - now, 0)

    def closed_for(self, now: float) -> float:
        """Seconds for which the API said that nothing may go."""
        return max(self._closed_until - now, 0)

    def accepted(self, grant: Grant, prediction_id: str | None, now: float) -> None:
        """Learn that a submission was accepted; without an id where its prediction has ended already."""
        self._out.pop(grant, None)
        self.accepted_at = now
        self._allowance += _GROWTH
        self._accepted.append(now)
        self._forget(now)
        if prediction_id is not None:
            self._in_flight[prediction_id] = now
        if grant.refusals != self._refusals:
            return
        if grant.is_probe:
            self._pause /= 2
            self._resume_at = now + self._pause * self._jitter(*_JITTER)
            is_open = self._is_by_minute() or self._pause < _SHORTEST_PAUSE
            self._places = None if is_open else self._used()
        self._early_refusals = 0

    def refused(self, grant: Grant, retry_after: float | None, now: float) -> None:
        """Learn that a submission was refused by a 429, with so many seconds to wait where it said so."""
        self._out.pop(grant, None)
        self._forget(now)
        if retry_after is not None and retry_after >= FIRST_PAUSE:  # less, such as a past time, says nothing
            self._closed_until = max(self._closed_until, now + min(retry_after, _LONGEST_CLOSURE))
            self._allowance = 1
            self._refusals += grant.refusals == self._refusals
            return
        if grant.refusals != self._refusals:  # sent too early to know: it only tells the places
            if self._places is not None:
                self._places = min(self._places, self._used())
            return
        self._refusals += 1
        self._allowance = 1
        had_place = self._places is not None and not grant.is_probe
        self._places = self._used()
        # Where nothing is in flight, there is nothing whose place could become free.
        self._early_refusals = self._early_refusals + had_place if self._places else _EARLY_REFUSALS
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        self._resume_at = now + self._pause * self._jitter(*_JITTER)
        if self._is_by_minute():
            times = (accepted + _WINDOW + _WINDOW_MARGIN for accepted in self._accepted)
            next_free = next((free for free in times if free >= now + FIRST_PAUSE), math.inf)
            self._resume_at = min(self._resume_at, next_free)

    def given_back(self, grant: Grant) -> None:
        """Learn that nothing was sent, or that the answer teaches nothing."""
        self._out.pop(grant, None)

    def started(self, prediction_id: str, now: float) -> None:
        """Learn of a prediction in flight that was submitted earlier, or by another process."""
        self._in_flight.setdefault(prediction_id, now)

    def ended(self, prediction_id: str) -> None:
        """Learn that a prediction is no longer in flight."""
        self._in_flight.pop(prediction_id, None)

    def _has_place(self) -> bool:
        return self._places is None or (not self._is_by_minute() and self._used() < self._places)

    def _is_by_minute(self) -> bool:
        """Whether free places were refused, so that the limit is one a minute."""
        return self._early_refusals >= _EARLY_REFUSALS

    def _used(self) -> int:
        return len(self._in_flight) + len(self._out)

    def _forget(self, now: float) -> None:
        while self._accepted and self._accepted[0] + _WINDOW <= now:
            self._accepted.popleft()
        _drop_until(self._in_flight, now - _FORGOTTEN)
        _drop_until(self._out, now - _LONGEST_TURN)


def _drop_until(since: dict[_Key, float], moment: float) -> None:
    """Remove what was added by then."""
    while since:
        first = next(iter(since))
        if since[first] > moment:
            return
        del since[first]


class Turn:
    """Leave to submit once: held until the POST is answered, or will not be sent."""

    def __init__(self, pace: Pace, grant: Grant) -> None:
        self._pace = pace
        self._grant = grant
        self._is_over = False

    def accepted(self, prediction: Prediction) -> None:
        """End it: the POST was accepted."""
        prediction_id = None if prediction.terminal else prediction.id
        self._end(lambda limits, now: limits.accepted(self._grant, prediction_id, now))

    def refused(self, retry_after: float | None) -> None:
        """End it: the answer was 429, with so many seconds to wait where it said so."""
        self._end(lambda limits, now: limits.refused(self._grant, retry_after, now))

    def give_back(self) -> None:
        """End it, if it has not ended: nothing was sent, or the answer teaches nothing."""
        self._end(lambda limits, now: limits.given_back(self._grant))

    def _end(self, teach: Callable[[Limits, float], None]) -> None:
        if not self._is_over:
            self._is_over = True
            self._pace.learn(teach)


class Pace:
    """Gives turns in the order in which they were asked for: to all clients of this process and of one API.

    Args:
        clock: seconds, rising.
        jitter: picks a share of a pause from a range.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._clock = clock
        self._limits = Limits(jitter)
        self._queue: deque[_Waiter] = deque()
        self._lock = threading.RLock()  # clients of one API may belong to several event loops

    async def turn(self, patience: float) -> Turn:
        """Wait for a turn to submit.

        Args:
            patience: seconds to wait while no submission of this process is accepted.

        Raises:
            RateLimitedError: that was not enough, or the API says that it will not be.
        """
        since, waiter = self._clock(), _Waiter()
        with self._lock:
            self._queue.append(waiter)
        try:
            while True:
                with self._lock:
                    now = self._clock()
                    is_first = self._queue[0] is waiter
                    if is_first and (grant := self._limits.grant(now)):
                        return Turn(self, grant)
                    waiter.prepare()
                    closed = self._limits.closed_for(now)
                    left = max(since, self._limits.accepted_at) + patience - now
                    chance = self._limits.next_chance(now) if is_first else math.inf
                if closed > patience:
                    raise _too_slow(f"submissions are paused for {closed:.1f} s more", closed)
                if left <= 0:
                    raise _too_slow(f"nothing was accepted for {patience:g} s")
                await waiter.sleep(min(chance, left, _LOOK_AGAIN))
        finally:
            with self._lock:
                if waiter in self._queue:
                    self._queue.remove(waiter)
                self._wake_first()

    def started(self, prediction_id: str) -> None:
        """Note a prediction in flight that was not submitted by a turn."""
        self.learn(lambda limits, now: limits.started(prediction_id, now))

    def ended(self, prediction_id: str) -> None:
        """Note that a prediction is no longer in flight."""
        self.learn(lambda limits, now: limits.ended(prediction_id))

    def learn(self, teach: Callable[[Limits, float], None]) -> None:
        """Let the limits learn something, and the next submission go if it now may."""
        with self._lock:
            teach(self._limits, self._clock())
            self._wake_first()

    def _wake_first(self) -> None:
        while self._queue and not self._queue[0].wake():
            self._queue.popleft()  # its event loop is closed


class _Waiter:
    """One that waits for its turn, on its event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sleep: asyncio.Future[None] | None = None

    def prepare(self) -> None:
        """Be ready to be woken from now on."""
        self._sleep = self._loop.create_future()

    async def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds, or until woken since ``prepare``."""
        if self._sleep is None:
            return
        alarm = self._loop.call_later(seconds, _finish, self._sleep)
        try:
            await self._sleep
        finally:
            alarm.cancel()

    def wake(self) -> bool:
        """End the sleep; return False where its event loop is closed."""
        if self._sleep is not None:
            try:
                self._loop.call_soon_threadsafe(_finish, self._sleep)
            except RuntimeError:
                return False
        return True


def _finish(sleep: asyncio.Future[None]) -> None:
    if not sleep.done():
        sleep.set_result(None)


def _too_slow(reason: str, seconds: float | None = None) -> RateLimitedError:
    return RateLimitedError(
        f"WaveSpeed asked to slow down: {reason}, and nothing was sent", retry_after=seconds
    )


@cache
def pace_of(base_url: str) -> Pace:
    """Return the pace of this process at an API."""
    return Pace()
