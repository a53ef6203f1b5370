"""What the emulator's ledger says of a contender, and the best that is possible."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

LATENCY = (2.0, 4.0)
"""Seconds that a prediction takes in the emulator, evenly spread."""


@dataclass(frozen=True)
class Measured:
    """What a contender did, as the API saw it.

    Attributes:
        began: when the first prediction was created, in Unix seconds.
        calls: to the API, the CDN not counted.
        took: how long each prediction took, in seconds, in the order of their creation.
        delays: seconds from the end of each prediction to the first answer that reported it, in order.
        billed: predictions that were.
        max_in_flight: most of them at once.
    """

    began: float
    calls: int
    took: list[float]
    delays: list[float]
    billed: int
    max_in_flight: int

    @classmethod
    def of(cls, ledger: dict[str, Any]) -> Measured:
        """Read the emulator's ledger."""
        reported = [one for one in ledger["predictions"] if one["reported_at"]]
        return cls(
            began=min(_seconds(one["created_at"]) for one in reported),
            calls=sum(ledger["calls"].values()) - ledger["calls"]["cdn"],
            took=[_seconds(one["completed_at"]) - _seconds(one["created_at"]) for one in reported],
            delays=sorted(_seconds(one["reported_at"]) - _seconds(one["completed_at"]) for one in reported),
            billed=ledger["billed"],
            max_in_flight=ledger["max_in_flight"],
        )

    def delay(self, share: float) -> float:
        """Seconds within which this share of the predictions was noticed."""
        return self.delays[min(int(share * len(self.delays)), len(self.delays) - 1)]

    def perfect_rate(self, in_flight: int) -> float:
        """Images a minute of a scheduler that costs nothing, with the very latencies of this contender."""
        return len(self.took) / perfect_seconds(self.took, in_flight) * 60


def ideal_rate(in_flight: int) -> float:
    """Images a minute of a run that never begins and never ends: in flight by latency."""
    return in_flight / (sum(LATENCY) / 2) * 60


def perfect_seconds(took: Iterable[float], in_flight: int) -> float:
    """How long predictions take whose place is taken by the next one the moment that they are done."""
    places: list[float] = []
    for seconds in took:
        start = heapq.heappop(places) if len(places) == in_flight else 0.0
        heapq.heappush(places, start + seconds)
    return max(places)


def _seconds(timestamp: str) -> float:
    whole, _, nanoseconds = timestamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + int(nanoseconds) / 1e9
