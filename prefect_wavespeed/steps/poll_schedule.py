"""When to poll: often enough to notice early, seldom enough not to be a burden.

How long predictions take is learnt from those of this process, including those in flight: one that is not
ready after three seconds takes longer than three. Between the shortest and the longest usual time polls are
evenly spaced: where a prediction is equally likely to end at any moment, no other order notices as early with
as few polls. docs/measurements.md has the sums.

Where webhooks report what is ready, and have not failed to lately, only overdue predictions are polled. After
a 429 all of this process are polled less often: see ``poll_slowdown.py``.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections import deque
from types import TracebackType
from typing import Self

from prefect_wavespeed.steps.poll_slowdown import PollSlowdown
from prefect_wavespeed.steps.webhook_inbox import GRACE, Notice, WebhookInbox

MAX_INTERVAL = 10.0
MIN_INTERVAL = 0.1
"""Seconds between two polls of one prediction, where nothing else is asked for."""
# Polls over the usual range of times. A prediction that may end at any moment of it needs half of them on
# average, and half a poll more.
_STEPS = 7.0
_SCOUTS = 8  # polled often while nothing has been learnt; the others wait for what these show
_ESTIMATE_SECONDS = 0.2  # how long an estimate is used
_REMEMBERED = 300  # predictions


class PollSchedule:
    """Learns from the predictions of this process how long one takes, and spaces their polls accordingly."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=_REMEMBERED)  # seconds
        self._flights: dict[Flight, None] = {}
        self._scouts = 0
        self._waiting: dict[Notice, asyncio.AbstractEventLoop] = {}  # for the first estimate
        self._estimate: tuple[float, float] | None = None
        self._estimated_at = -_ESTIMATE_SECONDS
        self._slowdown = PollSlowdown()

    def flight(
        self,
        *,
        fresh: bool,
        since: float | None = None,
        notice: Notice | None = None,
        least: float = MIN_INTERVAL,
    ) -> Flight:
        """Return the flight of a prediction that is polled from now on.

        Args:
            fresh: it was submitted just now; otherwise it may be ready already, and is polled at once.
            since: when it was submitted, on the event loop's (monotonic) clock; now by default.
            notice: what webhooks report about it; nothing by default.
            least: seconds between two polls.
        """
        notice = notice or Notice(WebhookInbox(), "")
        return Flight(self, fresh, _now() if since is None else since, notice, least)

    def learn(self, seconds: float) -> None:
        """Remember how long a prediction took."""
        self._durations.append(seconds)
        while self._waiting:
            notice, loop = self._waiting.popitem()
            if not loop.is_closed():
                loop.call_soon_threadsafe(notice.wake)

    def usual_range(self) -> tuple[float, float] | None:
        """Return the range of seconds that nine of ten predictions take; None before the first has ended."""
        if not self._durations:
            return None
        now = _now()
        if now - self._estimated_at >= _ESTIMATE_SECONDS or self._estimate is None:
            # Not their ages: one that is ready and not polled yet would make all seem slower, and so be
            # polled even later.
            pending = sorted(flight.not_ready_at for flight in self._flights if flight.fresh)
            self._estimate, self._estimated_at = _usual_range(sorted(self._durations), pending), now
        return self._estimate

    async def wait_for_estimate(self, notice: Notice, seconds: float) -> None:
        """Wait until a prediction has ended or the notice is delivered, for so many seconds at most."""
        self._waiting[notice] = asyncio.get_running_loop()
        try:
            await notice.wait(seconds)
        finally:
            self._waiting.pop(notice, None)

    def _take_off(self, flight: Flight, *, scout: bool) -> bool:
        """Count a flight in; return whether it is a scout, which it is only where one is needed."""
        self._flights[flight] = None
        scout = scout and self.usual_range() is None and self._scouts < _SCOUTS
        self._scouts += scout
        return scout

    def _land(self, flight: Flight, *, scout: bool) -> None:
        self._flights.pop(flight, None)
        self._scouts -= scout


def _usual_range(durations: list[float], pending: list[float]) -> tuple[float, float]:
    """The 5th and the 95th percentile of how long predictions take (the Kaplan-Meier estimate).

    Args:
        durations: how long those took that have ended, in ascending order.
        pending: when the others were last seen not to be ready, in ascending order.
    """
    low, high, surviving = durations[0], None, 1.0
    for index, seconds in enumerate(durations):
        at_risk = len(durations) - index + len(pending) - bisect_left(pending, seconds)
        if surviving > 0.95:
            low = seconds
        surviving *= 1 - 1 / at_risk
        if surviving <= 0.05:
            high = seconds
            break
    # While the slowest have not ended, the range is taken to be as wide as its lower end.
    return low, max(low * 2, durations[-1]) if high is None else high


class Flight:
    """One prediction in flight: a context manager around its polls.

    Attributes:
        fresh: it was submitted just now.
        since: when, on the event loop's clock.
    """

    def __init__(
        self, schedule: PollSchedule, fresh: bool, since: float, notice: Notice, least: float
    ) -> None:
        self.fresh = fresh
        self.since = since
        self._schedule = schedule
        self._slowdown = schedule._slowdown
        self._notice = notice
        self._least = least
        self._not_ready_at = 0.0
        self._scout = False
        self._polled = False
        self._polled_at = 0.0  # its age at the last poll

    def __enter__(self) -> Self:
        self._scout = self._schedule._take_off(self, scout=self.fresh and not self._notice.reliable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._schedule._land(self, scout=self._scout)

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return _now() - self.since

    @property
    def not_ready_at(self) -> float:
        """Its age when it was last known not to be ready, in seconds."""
        if self._notice.reliable:  # a notice would have arrived
            return self.age
        return self._not_ready_at

    async def wait(self, at_least: float, at_most: float) -> None:
        """Wait until it is time to poll, or a notice is delivered.

        Args:
            at_least: seconds before which it must not be polled.
            at_most: seconds after which it must be polled.
        """
        latest = _now() + at_most
        if self.fresh and not self._polled and not self._scout and self._schedule.usual_range() is None:
            await self._schedule.wait_for_estimate(self._notice, min(MAX_INTERVAL, at_most))
            at_most = max(latest - _now(), 0)
        await self._notice.wait(min(max(at_least, self._interval()), at_most))
        # Nothing is polled in a pause, and after it all begin at different times.
        while not self._notice.is_unread and (pause := min(self._slowdown.left(_now()), latest - _now())) > 0:
            await self._notice.wait(min(pause + self._step() * random.uniform(0, 1), latest - _now()))
        # Nor at each of many notices.
        if self._polled and (rest := min(self._polled_at + self._least - self.age, latest - _now())) > 0:
            await asyncio.sleep(rest)
        self._polled, self._polled_at = True, self.age

    def answered(self) -> None:
        """Note that the last poll was answered."""
        self._slowdown.answered(self.since + self._polled_at)

    def refused(self, retry_after: float | None) -> None:
        """Note that the last poll was refused with 429, and how many seconds to wait where that said so."""
        self._slowdown.refused(self.since + self._polled_at, retry_after, _now())

    def not_ready(self) -> None:
        """Note that it was not ready at the last poll."""
        self._not_ready_at = self._polled_at

    def ready(self, seconds: float | None) -> None:
        """Note that it has completed.

        Args:
            seconds: how long it took, as the API says; 0 or None where it does not.
        """
        if self.fresh:
            age = self.age
            duration = seconds or (self._not_ready_at + age) / 2
            # The API's figure may leave out the time in its queue.
            self._schedule.learn(min(max(duration, self._not_ready_at), age))
            if self._notice.missing and (usual := self._schedule.usual_range()):
                self._notice.expect(GRACE - max(age - usual[1], 0))

    def _interval(self) -> float:
        """Seconds from now to the next poll."""
        usual, age = self._schedule.usual_range(), self.age
        if not self.fresh and not self._polled:
            return 0.0
        factor = self._slowdown.factor
        if usual is None and self._scout:
            return max(0.5 - age, 0.25, self._least, age * 0.08) * factor
        low, high = usual or (0.0, 0.0)
        if self._notice.reliable:  # poll what is overdue, and what takes far longer than the shortest
            first = min(high + GRACE, low + MAX_INTERVAL)
            if self.fresh and age < first:
                return max(first - age, self._least)
            return MAX_INTERVAL * factor if self._polled else random.uniform(0, 1)
        step = self._step()
        if self.fresh and age < low:
            return max(low - age + step * random.uniform(0.5, 1), self._least if self._polled else 0.0)
        if self.fresh and not self._polled:
            return step * random.uniform(0, 1)
        overdue = max(age - high, 0) if self.fresh else age
        spaced = min(max(step, overdue / 4) * random.uniform(0.95, 1.05), MAX_INTERVAL * factor)
        return max(spaced, self._least)

    def _step(self) -> float:
        """Seconds between two polls within the usual range of times."""
        low, high = self._schedule.usual_range() or (0.0, 0.0)
        step = min((high - low) / _STEPS, MAX_INTERVAL) if high else 0.5
        return max(step, self._least) * self._slowdown.factor


def _now() -> float:
    return asyncio.get_running_loop().time()


poll_schedule = PollSchedule()
"""The schedule of this process."""
