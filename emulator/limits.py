"""The limits of an account level."""

from __future__ import annotations

import math
import time
from collections import deque

_WINDOW = 60.0


class Tier:
    """Limits submissions in a sliding window of 60 seconds, and predictions in flight."""

    def __init__(self, requests_per_minute: int, in_flight: int) -> None:
        self._requests_per_minute = requests_per_minute
        self._in_flight = in_flight
        self._accepted: deque[float] = deque()

    def refuse(self, in_flight: int) -> int | None:
        """Count a submission; or return how many seconds it has to wait."""
        now = time.monotonic()
        while self._accepted and self._accepted[0] <= now - _WINDOW:
            self._accepted.popleft()
        if len(self._accepted) >= self._requests_per_minute:
            return max(1, math.ceil(self._accepted[0] + _WINDOW - now))
        if in_flight >= self._in_flight:
            return 1
        self._accepted.append(now)
        return None

    def reset(self) -> None:
        """Forget all submissions."""
        self._accepted.clear()
