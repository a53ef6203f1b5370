"""When to ask again: often enough to notice early, seldom enough not to be a burden.

How long predictions take is learnt from those of this process, the ones under way included: what still flies
after three seconds takes longer than three. Between the shortest and the longest usual time the polls stand
at equal distances: where any moment is as likely as any other, no other order inbox as early with as few.
docs/performance.md has the sums.

Where webhooks tell what is ready, and have not failed to lately, polls are for what is overdue.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections import deque
from types import TracebackType
from typing import Self

from prefect_wavespeed.steps.webhook_inbox import GRACE, Notice, WebhookInbox

MAX_INTERVAL = 10.0
MIN_INTERVAL = 0.1
# Polls over the usual spread of times. A prediction that may end at any moment of it needs half of them,
# and half a poll more, on the average.
_STEPS = 7.0
_SCOUTS = 8  # are asked often while nothing is known; the others wait for what they tell
_RENEWED = 0.2  # seconds that an estimate is used for


class PollSchedule:
    """Learns from the predictions of this process how long one takes, and spaces its polls by it."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=300)  # seconds
        self._flying: dict[Flight, None] = {}
        self._scouts = 0
        self._learning: dict[Notice, asyncio.AbstractEventLoop] = {}
        self._usual: tuple[float, float] | None = None
        self._told = -_RENEWED

    def flight(self, *, fresh: bool, since: float | None = None, notice: Notice | None = None) -> Flight:
        """A prediction that is polled from now on.

        Args:
            fresh: it was submitted just now; otherwise it may be done already, and is asked for at once.
            since: when it was submitted, on the event loop's (monotonic) clock; now by default.
            notice: what webhooks tell of it; nothing by default.
        """
        notice = notice or Notice(WebhookInbox(), "")
        return Flight(self, fresh, _now() if since is None else since, notice)

    def learn(self, seconds: float) -> None:
        """Remember how long a prediction took, in seconds."""
        self._recent.append(seconds)
        while self._learning:
            notice, loop = self._learning.popitem()
            if not loop.is_closed():
                loop.call_soon_threadsafe(notice.wake)

    def usual(self) -> tuple[float, float] | None:
        """Between how many seconds nine of ten predictions take; None while nothing is known."""
        if not self._recent:
            return None
        now = _now()
        if now - self._told >= _RENEWED or self._usual is None:
            # Not their ages: one that is ready and not asked for yet would make all look slower, and so
            # be asked for even later.
            ages = sorted(flight.not_ready_at for flight in self._flying if flight.fresh)
            self._usual, self._told = _usual(sorted(self._recent), ages), now
        return self._usual

    async def learning(self, notice: Notice, seconds: float) -> None:
        """Wait until something is learnt or told, so many seconds at the most."""
        self._learning[notice] = asyncio.get_running_loop()
        try:
            await notice.sleep(seconds)
        finally:
            self._learning.pop(notice, None)


def _usual(times: list[float], ages: list[float]) -> tuple[float, float]:
    """The 5th and the 95th percentile of how long predictions take (the Kaplan-Meier estimate).

    Args:
        times: how long those took that are done, in ascending order.
        ages: when the others were last seen not to be ready, in ascending order.
    """
    low, high, still = times[0], None, 1.0
    for index, seconds in enumerate(times):
        at_risk = len(times) - index + len(ages) - bisect_left(ages, seconds)
        if still > 0.95:
            low = seconds
        still *= 1 - 1 / at_risk
        if still <= 0.05:
            high = seconds
            break
    # While the slowest are still to come, the spread is taken to be as long as the shortest time.
    return low, max(low * 2, times[-1]) if high is None else high


class Flight:
    """One prediction on its way, as a context manager around its polls.

    Attributes:
        fresh: it was submitted just now.
        since: when, on the event loop's clock.
    """

    def __init__(self, poll_schedule: PollSchedule, fresh: bool, since: float, notice: Notice) -> None:
        self.fresh = fresh
        self.since = since
        self._pace = poll_schedule
        self._notice = notice
        self._not_ready_at = 0.0
        self._scout = False
        self._asked = False
        self._asked_at = 0.0  # seconds after which it was asked for last

    def __enter__(self) -> Self:
        self._pace._flying[self] = None
        if self.fresh and self._pace.usual() is None and self._pace._scouts < _SCOUTS:
            self._scout = not self._notice.relied_on
            self._pace._scouts += self._scout
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pace._flying.pop(self, None)
        self._pace._scouts -= self._scout

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return _now() - self.since

    @property
    def not_ready_at(self) -> float:
        """Seconds after which it was not ready yet."""
        if self._notice.relied_on:  # it would have been told
            return self.age
        return self._not_ready_at

    async def wait(self, least: float, most: float) -> None:
        """Wait until it is time to ask, or something is told.

        Args:
            least: seconds to wait before it may be asked for.
            most: seconds after which to ask at the latest.
        """
        latest = _now() + most
        if self.fresh and not self._asked and not self._scout and self._pace.usual() is None:
            await self._pace.learning(self._notice, min(MAX_INTERVAL, most))
            most = max(latest - _now(), 0)
        await self._notice.sleep(min(max(least, self._next()), most))
        self._asked, self._asked_at = True, self.age

    def not_yet(self) -> None:
        """It was not ready when it was asked for last."""
        self._not_ready_at = self._asked_at

    def ready(self, seconds: float | None) -> None:
        """It is ready.

        Args:
            seconds: how long it took, as the API says.
        """
        if self.fresh:
            age = self.age
            told = seconds or (self._not_ready_at + age) / 2
            # An API may leave the time in its queue out of account.
            self._pace.learn(min(max(told, self._not_ready_at), age))
            if self._notice.missing and (usual := self._pace.usual()):
                self._notice.expect_within(GRACE - max(age - usual[1], 0))

    def _next(self) -> float:
        """Seconds from now on."""
        usual, age = self._pace.usual(), self.age
        if not self.fresh and not self._asked:
            return 0.0
        if usual is None and self._scout:
            return max(0.5 - age, 0.25, age * 0.08)
        low, high = usual or (0.0, 0.0)
        step = min(max((high - low) / _STEPS, MIN_INTERVAL), MAX_INTERVAL) if usual else 0.5
        if self._notice.relied_on:  # ask for what is overdue, and for what takes far longer than the shortest
            first = min(high + GRACE, low + MAX_INTERVAL)
            if self.fresh and age < first:
                return max(first - age, MIN_INTERVAL)
            return MAX_INTERVAL if self._asked else random.uniform(0, 1)
        if self.fresh and age < low:
            return low - age + step * random.uniform(0.5, 1)
        if self.fresh and not self._asked:
            return step * random.uniform(0, 1)
        overdue = max(age - high, 0) if self.fresh else age
        return min(max(step, overdue / 4) * random.uniform(0.95, 1.05), MAX_INTERVAL)


def _now() -> float:
    return asyncio.get_running_loop().time()


poll_schedule = PollSchedule()
"""What this process has learnt."""
