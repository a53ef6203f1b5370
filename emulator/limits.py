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
    """Limits predictions in flight, and the calls that count in a sliding window of 60 seconds."""

    def __init__(self, requests_per_minute: int, in_flight: int) -> None:
        self._requests_per_minute = requests_per_minute
        self._in_flight = in_flight
        self._accepted: deque[float] = deque()

    def count_submission(self, in_flight: int) -> Excess | None:
        """Count a submission; or return why it comes too early."""
        if (excess := self._wait_for_window()) is not None:
            return excess
        if in_flight >= self._in_flight:
            return Excess(1, "You have reached your concurrency limit")
        self._accepted.append(time.monotonic())
        return None

    def count_call(self) -> Excess | None:
        """Count a call that puts nothing in flight; or return why it comes too early."""
        if (excess := self._wait_for_window()) is None:
            self._accepted.append(time.monotonic())
        return excess

    def _wait_for_window(self) -> Excess | None:
        now = time.monotonic()
        while self._accepted and self._accepted[0] <= now - _WINDOW:
            self._accepted.popleft()
        if len(self._accepted) >= self._requests_per_minute:
            wait = max(1, math.ceil(self._accepted[0] + _WINDOW - now))
            return Excess(wait, f"{self._requests_per_minute} predictions per 1 minute")
        return None

    def reset(self) -> None:
        """Forget all calls."""
        self._accepted.clear()
