"""What a batch may spend."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

from restyle.client import WaveSpeedClient
from restyle.errors import BudgetExceededError
from restyle.jobs import Job
from restyle.plan import price_kind

_FRESH = 10.0  # seconds that a price is relied on where a cap must be kept


class Prices:
    """What jobs cost: asked once for each set of parameters, and again when that was too long ago."""

    def __init__(self, client: WaveSpeedClient) -> None:
        self._client = client
        self._known: dict[str, tuple[float, float]] = {}
        self._lock = asyncio.Lock()

    async def usd(self, job: Job) -> float:
        """The price of a job in USD, as it was a few seconds ago at the most.

        Raises:
            BudgetExceededError: it is told in another currency, so no limit in USD can be kept.
            RestyleError: the API does not tell it now.
        """
        kind = price_kind(job)
        async with self._lock:
            asked, usd = self._known.get(kind, (float("-inf"), 0.0))
            if time.monotonic() - asked > _FRESH:
                asked = time.monotonic()
                quote = await self._client.price(job.request("https://example.com/image"))
                if quote.currency != "USD":
                    raise BudgetExceededError(
                        f"the price is told in {quote.currency}: no limit in USD can be kept"
                    )
                usd = quote.usd
                self._known[kind] = asked, usd
        return usd


class Budget:
    """The cap of one run. What may have been billed counts until it is known that it was not.

    Args:
        cap: most USD that the run may spend; None for no cap.
        price: tells the price of a job in USD.
    """

    def __init__(self, cap: float | None, price: Callable[[Job], Awaitable[float]]) -> None:
        self.cap = cap
        self._price = price
        self._taken: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._sum = 0.0

    async def take(self, job: Job, attempt: int) -> None:
        """Set the price of an attempt aside, before it is submitted.

        Raises:
            BudgetExceededError: the cap does not cover it; it must not be submitted.
        """
        if self.cap is None or attempt in self._taken.get(job.key, {}):
            return
        usd = await self._price(job)
        if self._sum + usd > self.cap + 1e-9:
            raise BudgetExceededError(
                f"max_cost_usd {self.cap:g} is reached: {self._sum:g} USD are spent or under way and the "
                f"next image costs {usd:g} USD: run it again with a higher limit to go on"
            )
        self._take(job, attempt, usd)

    async def count(self, job: Job, attempt: int) -> None:
        """Count an attempt that was submitted, whether or not the cap covers it."""
        if self.cap is not None and attempt not in self._taken.get(job.key, {}):
            self._take(job, attempt, await self._price(job))

    def give_back(self, job: Job) -> None:
        """Free what was set aside for a job of which nothing was billed to this run."""
        self._sum -= sum(self._taken.pop(job.key, {}).values())

    def _take(self, job: Job, attempt: int, usd: float) -> None:
        attempts = self._taken[job.key]
        self._sum += usd - attempts.get(attempt, 0.0)  # another may have come while the price was asked for
        attempts[attempt] = usd
