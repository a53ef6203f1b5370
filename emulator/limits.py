"""The limits of an account level."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import NamedTuple

_WINDOW = 60.0


class Excess(NamedTuple):
    """A call beyond the limits: the seconds that it should wait, and the text of its refusal."""

    wait: int
    message: str


class Tier:
    """Limits submissions in a sliding window of 60 seconds, and predictions in flight."""

    def __init__(self, requests_per_minute: int, in_flight: int) -> None:
        self._requests_per_minute = requests_per_minute
        self._in_flight = in_flight
        self._accepted: deque[float] = deque()

    def count(self, in_flight: int) -> Excess | None:
        """Count a submission; or return why it comes too early."""
        now = time.monotonic()
        while self._accepted and self._accepted[0] <= now - _WINDOW:
            self._accepted.popleft()
        if len(self._accepted) >= self._requests_per_minute:
            wait = max(1, math.ceil(self._accepted[0] + _WINDOW - now))
            return Excess(wait, f"{self._requests_per_minute} predictions per 1 minute")
        if in_flight >= self._in_flight:
            return Excess(1, "You have reached your concurrency limit")
        self._accepted.append(now)
        return None

    def reset(self) -> None:
        """Forget all submissions."""
        self._accepted.clear()
