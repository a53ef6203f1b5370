"""What a batch may spend."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from prefect_wavespeed.errors import BudgetExceededError
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import Price, PriceCache, price_key

_MAX_PRICE_AGE = 10.0  # seconds
_CLOSE_TO_CAP = 25  # images: the price is then asked for before each attempt
_PER_USD = 10**12  # amounts are whole numbers of 1e-12 USD: sums are exact, in any order
_ROUNDING = 1000  # 1e-9 USD, by which caps and quotes may differ as sums of floats


@dataclass(frozen=True)
class _Reservation:
    """What an attempt may have cost.

    Attributes:
        kind: all that its price depends on.
        base: its amount, without what prices of its kind had risen by when it was made.
    """

    kind: Hashable
    base: int


class Budget:
    """The cap of one run. What may have been billed counts until it is known that it was not.

    A price that has risen applies to all attempts under way, and to all that were submitted since the price
    was last asked for: any of them may have been billed at the new one.

    Every call takes the same time, however many attempts are under way.

    Args:
        cap: most USD that the run may spend; None for no cap.
        prices: what jobs cost.
    """

    def __init__(self, cap: float | None, prices: PriceCache) -> None:
        self.cap = cap
        self._prices = prices
        self._total = 0  # spent or reserved
        self._reserved: defaultdict[str, dict[int, _Reservation]] = defaultdict(dict)  # by job and attempt
        self._count: Counter[Hashable] = Counter()  # reservations by kind
        self._risen: Counter[Hashable] = Counter()  # by how much in all, by kind
        self._latest: dict[Hashable, Price] = {}
        self._spent_since: Counter[Hashable] = Counter()  # attempts spent since the price was last asked for

    @property
    def total(self) -> float:
        """USD that are spent or reserved."""
        return self._total / _PER_USD

    async def take(self, job: Job, attempt: int) -> None:
        """Reserve the price of an attempt just before it is submitted.

        Called again for an attempt that was not submitted after all, it reserves the price of then.

        Raises:
            BudgetExceededError: the cap does not cover it; it must not be submitted.
        """
        if self.cap is None:
            return
        amount = _amount(await self._price(job, self.cap))
        self._free(job, attempt)
        if self._total + amount > _amount(self.cap) + _ROUNDING:
            raise BudgetExceededError(
                f"max_cost_usd {self.cap:g} is reached: {self.total:g} USD are spent or in flight and the "
                f"next image costs {amount / _PER_USD:g} USD: run it again with a higher limit to continue"
            )
        kind = price_key(job.params)
        self._reserved[job.key][attempt] = _Reservation(kind, amount - self._risen[kind])
        self._count[kind] += 1
        self._total += amount

    def unsent(self, job: Job, attempt: int | None = None) -> None:
        """Free the reservation of an attempt, by default the newest: it was not sent, or it was refused."""
        if attempts := self._reserved.get(job.key):
            self._free(job, max(attempts) if attempt is None else attempt)

    def close(self, job: Job) -> None:
        """Count what is still reserved for a job as spent."""
        for reservation in self._reserved.pop(job.key, {}).values():
            self._count[reservation.kind] -= 1
            self._spent_since[reservation.kind] += 1

    def count(self, usd: float) -> None:
        """Count what an earlier try of the run has spent, whether or not the cap covers it."""
        self._total += _amount(usd)

    def _free(self, job: Job, attempt: int) -> None:
        if reservation := self._reserved[job.key].pop(attempt, None):
            self._count[reservation.kind] -= 1
            self._total -= reservation.base + self._risen[reservation.kind]

    async def _price(self, job: Job, cap: float) -> float:
        kind = price_key(job.params)
        latest = self._latest.get(kind)
        is_close = latest is not None and cap - self.total < _CLOSE_TO_CAP * latest.usd
        price = await self._prices.price(job.request("-"), max_age=0.0 if is_close else _MAX_PRICE_AGE)
        latest = self._latest.get(kind)
        if latest is None or price.requested_at > latest.requested_at:
            if latest and price.usd > latest.usd:
                self._raise(kind, _amount(price.usd) - _amount(latest.usd))
            self._latest[kind] = price
            self._spent_since[kind] = 0
        return self._latest[kind].usd

    def _raise(self, kind: Hashable, by: int) -> None:
        self._risen[kind] += by
        self._total += by * (self._count[kind] + self._spent_since[kind])


def _amount(usd: float) -> int:
    return round(usd * _PER_USD)
