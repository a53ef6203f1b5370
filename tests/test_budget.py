"""The budget: what may have been billed counts, in any order of events, however much is in flight."""

from __future__ import annotations

import random
from collections import Counter, UserDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.errors import BudgetExceededError
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import Price, PriceCache, price_key
from tests.support.jobs import job_of, make_row

JOBS = [job_of(make_row(number, num_images=1 + number % 3)) for number in range(1, 13)]
ONE, TWO = (job_of(make_row(number)) for number in (1, 2))


@dataclass
class Prices:
    """A price cache whose prices are at hand."""

    usd: dict[Hashable, float] = field(default_factory=dict)
    default: float = 0.025
    max_ages: list[float] = field(default_factory=list)
    latest: dict[Hashable, Price] = field(default_factory=dict)
    asked: int = 0

    async def price(self, request: ReduxRequest, *, max_age: float) -> Price:
        key = price_key(request)
        self.max_ages.append(max_age)
        if not max_age or key not in self.latest:
            self.asked += 1
            self.latest[key] = Price(self.usd.get(key, self.default), self.asked)
        return self.latest[key]

    def set(self, usd: float) -> None:
        """Another price for everything, known to whoever asks again."""
        self.default = usd
        self.latest.clear()


def budget(cap: float | None, prices: Prices) -> Budget:
    return Budget(cap, cast("PriceCache", prices))


async def test_what_exactly_fits_is_taken_and_no_more() -> None:
    spending = budget(0.05, Prices())
    await spending.take(ONE, 1)
    await spending.take(TWO, 1)
    with pytest.raises(BudgetExceededError, match=r"max_cost_usd 0\.05 is reached: 0\.05 USD are spent or"):
        await spending.take(ONE, 2)
    assert spending.total == 0.05


async def test_without_a_cap_nothing_is_asked_or_counted() -> None:
    prices = Prices()
    spending = budget(None, prices)
    await spending.take(ONE, 1)
    assert (spending.total, prices.max_ages) == (0, [])


async def test_an_attempt_that_was_not_sent_is_free_again_and_one_that_was_stays_spent() -> None:
    spending = budget(1, Prices())
    await spending.take(ONE, 1)
    await spending.take(ONE, 2)
    spending.unsent(ONE)
    assert spending.total == 0.025
    spending.close(ONE)
    spending.unsent(ONE)
    assert spending.total == 0.025


async def test_an_attempt_that_is_taken_again_counts_once_at_the_price_of_then() -> None:
    prices = Prices()
    spending = budget(1, prices)
    await spending.take(ONE, 1)
    prices.set(0.04)
    await spending.take(ONE, 1)
    assert spending.total == 0.04


async def test_a_rise_counts_for_what_is_in_flight_and_for_what_was_spent_since_the_price_was_asked() -> None:
    prices = Prices()
    spending = budget(10, prices)
    for job in JOBS[0], JOBS[3]:  # one price
        await spending.take(job, 1)
    spending.close(JOBS[0])
    prices.set(0.03)
    await spending.take(JOBS[6], 1)
    assert spending.total == pytest.approx(0.09)
    prices.set(0.02)  # a fall changes nothing
    await spending.take(JOBS[9], 1)
    assert spending.total == pytest.approx(0.11)


async def test_close_to_the_cap_the_price_is_asked_for_each_time() -> None:
    prices = Prices()
    spending = budget(1, prices)
    for attempt in range(1, 30):
        await spending.take(ONE, attempt)
    assert prices.max_ages == [10.0] * 16 + [0.0] * 13


async def test_what_an_earlier_try_spent_counts() -> None:
    spending = budget(0.1, Prices())
    spending.count(0.08)
    with pytest.raises(BudgetExceededError):
        await spending.take(ONE, 1)


class PlainBudget:
    """The same rules, with everything added up whenever it is asked for."""

    def __init__(self, cap: float) -> None:
        self.cap = Fraction(str(cap))
        self.spent = Fraction()
        self.held: dict[str, dict[int, list[object]]] = {}
        self.latest: dict[Hashable, Price] = {}
        self.since: Counter[Hashable] = Counter()

    @property
    def total(self) -> Fraction:
        amounts = [usd for attempts in self.held.values() for _, usd in attempts.values()]
        return self.spent + sum((cast("Fraction", usd) for usd in amounts), Fraction())

    def take(self, job: Job, attempt: int, price: Price) -> bool:
        key = price_key(job.params)
        latest = self.latest.get(key)
        if latest is None or price.requested_at > latest.requested_at:
            risen = usd_of(price) - usd_of(latest) if latest else Fraction()
            if risen > 0:
                self.spent += risen * self.since[key]
                for attempts in self.held.values():
                    for reservation in attempts.values():
                        if reservation[0] == key:
                            reservation[1] = cast("Fraction", reservation[1]) + risen
            self.latest[key] = price
            self.since[key] = 0
        usd = usd_of(self.latest[key])
        attempts = self.held.setdefault(job.key, {})
        attempts.pop(attempt, None)
        if self.total + usd > self.cap:
            return False
        attempts[attempt] = [key, usd]
        return True

    def unsent(self, job: Job, attempt: int | None) -> None:
        if attempts := self.held.get(job.key):
            attempts.pop(max(attempts) if attempt is None else attempt, None)

    def close(self, job: Job) -> None:
        for key, usd in self.held.pop(job.key, {}).values():
            self.spent += cast("Fraction", usd)
            self.since[key] += 1


def usd_of(price: Price) -> Fraction:
    return Fraction(str(price.usd))


EVENTS = {"take": 9, "unsent": 2, "newest unsent": 1, "close": 3, "price": 1, "count": 0.2}
"""With how often they happen."""


@pytest.mark.parametrize("seed", range(60))
async def test_any_sequence_of_events_comes_to_the_plain_sum(seed: int) -> None:
    chance, prices = random.Random(seed), Prices()
    cap = chance.choice([0.2, 1.0, 5.0])
    spending, plain = budget(cap, prices), PlainBudget(cap)
    for _ in range(300):
        job, attempt = chance.choice(JOBS), chance.randint(1, 3)
        match chance.choices(list(EVENTS), list(EVENTS.values())):
            case ["take"]:
                taken = True
                try:
                    await spending.take(job, attempt)
                except BudgetExceededError:
                    taken = False
                assert plain.take(job, attempt, prices.latest[price_key(job.params)]) == taken
            case ["unsent"]:
                spending.unsent(job, attempt)
                plain.unsent(job, attempt)
            case ["newest unsent"]:
                spending.unsent(job)
                plain.unsent(job, None)
            case ["close"]:
                spending.close(job)
                plain.close(job)
            case ["price"]:
                prices.set(chance.choice([0.01, 0.025, 0.0333, 0.05]))
            case ["count"]:
                spending.count(0.025)
                plain.spent += Fraction("0.025")
        assert spending.total == pytest.approx(float(plain.total), abs=1e-12)


class Reserved(UserDict[str, dict[int, Any]]):
    """What a budget holds, by job; it counts how often a job is looked at."""

    looks = 0

    def __getitem__(self, key: str) -> dict[int, Any]:
        self.looks += 1
        return super().__getitem__(key)

    def __missing__(self, key: str) -> dict[int, Any]:
        return self.data.setdefault(key, {})

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            self.looks += 1
            yield key


async def test_with_ten_thousand_in_flight_a_submission_looks_at_no_more_jobs_than_with_ten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def job(number: int) -> Job:
        return cast("Job", SimpleNamespace(key=str(number), params=ONE.params, request=ONE.request))

    async def looks(in_flight: int) -> int:
        prices, reserved = Prices(), Reserved()
        spending = budget(1e6, prices)
        monkeypatch.setattr(spending, "_reserved", reserved)
        for number in range(in_flight):
            await spending.take(job(number), 1)
        reserved.looks, another = 0, job(in_flight)
        await spending.take(another, 1)
        spending.unsent(another)
        prices.set(0.04)  # for all that are in flight as well
        await spending.take(another, 1)
        assert spending.total == pytest.approx(0.04 * (in_flight + 1))
        spending.close(another)
        return reserved.looks

    assert 0 < await looks(10) == await looks(10_000)
