"""Clocks of stores, read once a process.

Ages of claims are differences of the store's own times, so that no two machines' clocks are ever compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class StoreClock:
    """A store's clock, carried on by this process's monotonic one.

    Attributes:
        read: what it showed; S3 tells whole seconds, so it may have been up to a second later.
        read_at: ``time.monotonic()`` after it was read.
    """

    read: datetime
    read_at: float

    def now(self) -> datetime:
        """The time by the store's clock: a little behind it at most, never ahead."""
        return self.read + timedelta(seconds=time.monotonic() - self.read_at)


# By a backend's identity. A store that has one here was seen to honour create-if-absent.
clocks: dict[tuple[str, str], StoreClock] = {}
