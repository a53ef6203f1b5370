"""The state of an emulator, and how its handlers reach it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from prefect_wavespeed.emulator.faults import CALLS
from prefect_wavespeed.emulator.limits import Tier
from prefect_wavespeed.emulator.options import Options
from prefect_wavespeed.emulator.predictions import Predictions


class State:
    """The account: its predictions, its limits, and counts of the calls."""

    def __init__(self, options: Options, predictions: Predictions) -> None:
        self.options = options
        self.predictions = predictions
        self.tier = Tier(*options.tier) if options.tier else None
        self.calls: Counter[str] = Counter()
        self.rejected = 0
        self.keys_seen_on_cdn = False

    def ledger(self) -> dict[str, Any]:
        """Return what ``GET /emulator/ledger`` answers."""
        return {
            **self.predictions.ledger(),
            "calls": {name: self.calls[name] for name in ("submit", *CALLS, "cdn")},
            "rejected": self.rejected,
            "keys_seen_on_cdn": self.keys_seen_on_cdn,
        }

    async def reset(self) -> None:
        """Start anew with an empty account and no faults."""
        await self.predictions.reset()
        if self.tier:
            self.tier.reset()
        self.calls.clear()
        self.rejected = 0
        self.keys_seen_on_cdn = False


STATE = web.AppKey("state", State)
