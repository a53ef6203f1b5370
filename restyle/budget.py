"""What a batch may spend."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field

from restyle.client import WaveSpeedClient
from restyle.errors import BudgetExceededError
from restyle.jobs import Job
from restyle.plan import price_kind

_FRESH_SECONDS = 10.0
_CLOSE = 25  # images: so near the cap, the price is asked before each


@dataclass(frozen=True, eq=False)
class Price:
    """What jobs of a kind cost, in USD, as one answer told it."""

    usd: float
    asked: float


class Prices:
    """What jobs cost: asked once for each set of parameters, and again when that was too long ago."""

    def __init__(self, client: WaveSpeedClient) -> None:
        self._client = client
        self._known: dict[str, Price] = {}
        self._lock = asyncio.Lock()

    async def of(self, job: Job, fresh: float = _FRESH_SECONDS) -> Price:
        """The price of a job, asked so many seconds ago at the most.

        Raises:
            BudgetExceededError: it is told in another currency, so no limit in USD can be kept.
            RestyleError: the API does not tell it now.
        """
        kind, called = price_kind(job), time.monotonic()
        async with self._lock:
            known = self._known.get(kind)
            if known is None or called - known.asked > fresh:
                asked = time.monotonic()
                quote = await self._client.price(job.request("https://example.com/image"))
                if quote.currency != "USD":
                    raise BudgetExceededError(
                        f"the price is told in {quote.currency}: no limit in USD can be kept"
                    )
                known = self._known[kind] = Price(quote.usd, asked)
            return known


@dataclass
class _Quoted:
    """What was set aside at one price."""

    price: Price
    attempts: list[tuple[str, int]] = field(default_factory=list)


class Budget:
    """The cap of one run. What may have been billed counts until it is known that it was not.

    A price that has risen counts for all that was set aside since it was last asked, too: nobody knows
    which of them were still billed at the old one.

    Args:
        cap: most USD that the run may spend; None for no cap.
        prices: what jobs cost.
    """

    def __init__(self, cap: float | None, prices: Prices) -> None:
        self.cap = cap
        self._prices = prices
        self._taken: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._latest: dict[str, _Quoted] = {}
        self._sum = 0.0

    async def take(self, job: Job, attempt: int) -> None:
        """Set the price of an attempt aside, just before it is submitted.

        Raises:
            BudgetExceededError: the cap does not cover it; it must not be submitted.
        """
        if self.cap is None or attempt in self._taken.get(job.key, {}):
            return
        price = await self._price(job, self.cap)
        if self._sum + price.usd > self.cap + 1e-9:
            raise BudgetExceededError(
                f"max_cost_usd {self.cap:g} is reached: {self._sum:g} USD are spent or under way and the "
                f"next image costs {price.usd:g} USD: run it again with a higher limit to go on"
            )
        self._set_aside(job, attempt, price.usd)

    async def count(self, job: Job, attempt: int) -> None:
        """Count an attempt that was submitted, whether or not the cap covers it."""
        if self.cap is not None and attempt not in self._taken.get(job.key, {}):
            self._set_aside(job, attempt, (await self._price(job, self.cap)).usd)

    def give_back(self, job: Job) -> None:
        """Free what was set aside for a job of which nothing was billed to this run."""
        self._sum -= sum(self._taken.pop(job.key, {}).values())

    async def _price(self, job: Job, cap: float) -> Price:
        kind = price_kind(job)
        latest = self._latest.get(kind)
        near = latest is not None and cap - self._sum < _CLOSE * latest.price.usd
        price = await self._prices.of(job, 0.0 if near else _FRESH_SECONDS)
        latest = self._latest.get(kind)
        if latest is None or price.asked > latest.price.asked:
            for key, attempt in latest.attempts if latest and price.usd > latest.price.usd else ():
                if attempt in self._taken.get(key, {}):
                    self._put(key, attempt, price.usd)
            self._latest[kind] = _Quoted(price)
        return price

    def _set_aside(self, job: Job, attempt: int, usd: float) -> None:
        self._put(job.key, attempt, usd)
        self._latest[price_kind(job)].attempts.append((job.key, attempt))

    def _put(self, key: str, attempt: int, usd: float) -> None:
        self._sum += usd - self._taken[key].get(attempt, 0.0)
        self._taken[key][attempt] = usd
