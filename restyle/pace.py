"""When to ask again: often enough to notice early, seldom enough not to be a burden."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from statistics import quantiles

MAX_INTERVAL = 10.0


class Pace:
    """Learns from recent predictions how long one takes, and spaces the polls of the next by it."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=200)

    def learn(self, seconds: float) -> None:
        """Remember how long a prediction took, in seconds."""
        self._recent.append(seconds)

    @property
    def expected(self) -> float:
        """When a prediction is likely done, in seconds after its submission."""
        if len(self._recent) < 4:
            return min(self._recent, default=1.0)
        return quantiles(self._recent, n=4)[0]

    def waits(self, *, fresh: bool) -> Iterator[float]:
        """Seconds to wait before each poll.

        Args:
            fresh: the prediction was submitted just now; otherwise it may be done already.
        """
        first = self.expected
        yield first if fresh else 0.0
        interval = max(0.2, first / 5)
        while True:
            yield interval * random.uniform(0.8, 1.2)
            interval = min(interval * 1.5, MAX_INTERVAL / 1.2)


def backoff(first: float = 0.5, most: float = MAX_INTERVAL) -> Iterator[float]:
    """Seconds to wait before each further try: doubling, with full jitter on the upper half."""
    interval = first
    while True:
        yield interval * random.uniform(0.5, 1.0)
        interval = min(interval * 2, most)


pace = Pace()
"""What this process has learnt."""
