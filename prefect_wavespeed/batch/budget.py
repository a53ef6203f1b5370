"""What a batch may spend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from prefect_wavespeed.errors import BudgetExceededError
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import Price, PriceCache, price_key

_FRESH_SECONDS = 10.0
_CLOSE = 25  # images: so near the cap, the price is asked before each


@dataclass
class _Held:
    kind: Hashable
    usd: float


class Budget:
    """The cap of one run. What may have been billed counts until it is known that it was not.

    A price that has risen counts for all that is on its way, and for all that was submitted since the price
    was last asked: nobody knows which of them were still billed at the old one.

    Args:
        cap: most USD that the run may spend; None for no cap.
        quotes: what jobs cost.
    """

    def __init__(self, cap: float | None, prices: PriceCache) -> None:
        self.cap = cap
        self._prices = prices
        self._spent = 0.0
        self._held: dict[str, dict[int, _Held]] = {}  # of jobs on their way, by attempt
        self._latest: dict[Hashable, Price] = {}
        self._since: Counter[Hashable] = Counter()  # settled since the price was last asked

    @property
    def total(self) -> float:
        """USD that are spent or set aside."""
        return self._spent + sum(held.usd for attempts in self._held.values() for held in attempts.values())

    async def take(self, job: Job, attempt: int) -> None:
        """Set the price of an attempt aside, just before it is submitted.

        Asked again where it was not sent after all, at the price of then.

        Raises:
            BudgetExceededError: the cap does not cover it; it must not be submitted.
        """
        if self.cap is None:
            return
        usd = await self._price(job, self.cap)
        attempts = self._held.get(job.key, {})
        attempts.pop(attempt, None)
        total = self.total
        if total + usd > self.cap + 1e-9:
            raise BudgetExceededError(
                f"max_cost_usd {self.cap:g} is reached: {total:g} USD are spent or under way and the "
                f"next image costs {usd:g} USD: run it again with a higher limit to go on"
            )
        self._held.setdefault(job.key, attempts)[attempt] = _Held(price_key(job.params), usd)

    def unsent(self, job: Job, attempt: int | None = None) -> None:
        """Free what was set aside for an attempt, by default the newest: it was not sent, or refused."""
        attempts = self._held.get(job.key)
        if attempts:
            attempts.pop(max(attempts) if attempt is None else attempt, None)

    def close(self, job: Job) -> None:
        """What is still set aside for a job has been spent."""
        for held in self._held.pop(job.key, {}).values():
            self._spent += held.usd
            self._since[held.kind] += 1

    def count(self, usd: float) -> None:
        """Count what an earlier try of the run has spent, whether or not the cap covers it."""
        self._spent += usd

    async def _price(self, job: Job, cap: float) -> float:
        kind = price_key(job.params)
        latest = self._latest.get(kind)
        near = latest is not None and cap - self.total < _CLOSE * latest.usd
        price = await self._prices.price(job.request("-"), max_age=0.0 if near else _FRESH_SECONDS)
        latest = self._latest.get(kind)
        if latest is None or price.requested_at > latest.requested_at:
            self._reprice(kind, price.usd - latest.usd if latest else 0.0)
            self._latest[kind] = price
            self._since[kind] = 0
        return self._latest[kind].usd

    def _reprice(self, kind: Hashable, more: float) -> None:
        if more <= 0:
            return
        self._spent += more * self._since[kind]
        for attempts in self._held.values():
            for held in attempts.values():
                held.usd += more if held.kind == kind else 0.0
