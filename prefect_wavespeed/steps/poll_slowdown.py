"""How much slower this process polls after a result call was answered with 429."""

from __future__ import annotations

import random
from collections.abc import Callable

from prefect_wavespeed.retry import LONGEST_WAIT

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
MOST = 64.0
"""How many times as long as usual the intervals may become."""

_RECOVERY = 0.98  # by which each answer shortens them again: some thirty undo one refusal


class PollSlowdown:
    """A pause that all polls share, and a factor by which their intervals are longer.

    Attributes:
        factor: of the intervals; 1 while all is well.
    """

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self.factor = 1.0
        self._jitter = jitter
        self._pause = 0.0
        self._paused_until = 0.0
        self._refused_at = float("-inf")

    def refused(self, sent_at: float, retry_after: float | None, now: float) -> None:
        """Learn that a poll was refused, with so many seconds to wait where the answer said so."""
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + min(retry_after, LONGEST_WAIT))
        if sent_at < self._refused_at:  # one of many that were under way together
            return
        self._refused_at = now
        self.factor = min(2 * self.factor, MOST)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._paused_until = max(self._paused_until, now + self._pause * self._jitter(0.75, 1.0))

    def answered(self, sent_at: float) -> None:
        """Learn that a poll was answered."""
        if sent_at >= self._refused_at:
            self.factor = max(self.factor * _RECOVERY, 1.0)
            self._pause /= 2

    def left(self, now: float) -> float:
        """Seconds for which nothing may be polled."""
        return max(self._paused_until - now, 0.0)
