from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.errors import BudgetExceededError, UnavailableError
from prefect_wavespeed.steps.prices import MAX_AGE, Price, PriceCache, price_key

CAT = ReduxRequest(image="https://example.com/cat.jpg", seed=1)
DOG = ReduxRequest(image="https://example.com/dog.jpg", seed=2)
TWO = CAT.model_copy(update={"num_images": 2})


class _Api:
    """Answers each price call with the next of its answers, the last for ever."""

    def __init__(self, *answers: Quote | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[ReduxRequest] = []

    async def price(self, request: ReduxRequest) -> Quote:
        self.calls.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _cache(*answers: Quote | Exception) -> tuple[PriceCache, _Api]:
    api = _Api(*answers)
    return PriceCache(cast("WaveSpeedClient", api)), api


async def test_a_price_is_fetched_once_whatever_the_picture_and_the_seed() -> None:
    prices, api = _cache(Quote(usd=0.025))
    assert prices.cached(CAT) is None
    assert [(await prices.price(request)).usd for request in (CAT, DOG, CAT)] == [0.025] * 3
    assert prices.cached(DOG) == 0.025
    assert len(api.calls) == 1


async def test_other_parameters_have_a_price_of_their_own() -> None:
    prices, api = _cache(Quote(usd=0.025), Quote(usd=0.05))
    assert await prices.usd(CAT, required=True) == 0.025
    assert await prices.usd(TWO, required=True) == 0.05
    assert api.calls == [CAT, TWO]


async def test_many_that_need_it_at_once_share_one_call() -> None:
    prices, api = _cache(Quote(usd=0.025))
    found = await asyncio.gather(*(prices.price(request) for request in [CAT, DOG] * 50))
    assert {price.usd for price in found} == {0.025}
    assert len(api.calls) == 1


async def test_a_price_may_have_to_be_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    prices, api = _cache(Quote(usd=0.025), Quote(usd=0.03))
    clock = iter([0.0, 0.0, 50.0, 100.0, 100.0])
    monkeypatch.setattr("prefect_wavespeed.steps.prices.time", SimpleNamespace(monotonic=clock.__next__))
    assert await prices.price(CAT) == Price(0.025, requested_at=0.0)
    assert await prices.price(CAT, max_age=60) == Price(0.025, requested_at=0.0)
    assert await prices.price(CAT, max_age=60) == Price(0.03, requested_at=100.0)
    assert len(api.calls) == 2
    assert prices.cached(CAT) == 0.03


async def test_many_that_need_the_price_of_now_share_two_calls() -> None:
    """The first call was made before the others asked; the second one is recent enough for all of them."""
    prices, api = _cache(Quote(usd=0.025))
    await asyncio.gather(*(prices.price(CAT, max_age=0.0) for _ in range(10)))
    assert len(api.calls) == 2


async def test_a_discount_to_nothing_is_a_price() -> None:
    prices, _ = _cache(Quote(usd=0.0))
    assert await prices.usd(CAT, required=True) == 0.0
    assert prices.cached(CAT) == 0.0


async def test_a_price_that_is_not_required_is_asked_for_once_and_may_be_unknown() -> None:
    prices, api = _cache(UnavailableError("away"))
    assert await prices.usd(CAT, required=False) is None
    assert await prices.usd(CAT, required=False) is None
    assert prices.cached(CAT) is None
    assert len(api.calls) == 1


async def test_a_price_is_not_taken_for_ever_as_it_was_and_an_unknown_one_not_as_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_wavespeed.steps.prices._UNKNOWN_SECONDS", 0.01)
    prices, _ = _cache(UnavailableError("away"), Quote(usd=0.025), Quote(usd=0.03), UnavailableError("away"))
    assert await prices.usd(CAT, required=False) is None
    await asyncio.sleep(0.02)
    assert await prices.usd(CAT, required=False) == 0.025
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + MAX_AGE + 1)
    monkeypatch.setattr("prefect_wavespeed.steps.prices.time", later)
    assert await prices.usd(CAT, required=True) == 0.03
    later.monotonic = lambda: time.monotonic() + 3 * MAX_AGE
    assert await prices.usd(CAT, required=False) == 0.03, "the last that is known"


async def test_a_price_that_is_required_is_asked_for_again_until_the_api_says() -> None:
    prices, api = _cache(UnavailableError("away"), UnavailableError("away"), Quote(usd=0.025))
    assert await prices.usd(CAT, required=False) is None
    with pytest.raises(UnavailableError):
        await prices.usd(CAT, required=True)
    assert await prices.usd(CAT, required=True) == 0.025
    assert await prices.usd(CAT, required=False) == 0.025
    assert len(api.calls) == 3


async def test_a_failure_does_not_forget_the_price() -> None:
    prices, _ = _cache(Quote(usd=0.025), UnavailableError("away"))
    await prices.price(CAT)
    with pytest.raises(UnavailableError):
        await prices.price(CAT, max_age=-1.0)
    assert prices.cached(CAT) == 0.025


async def test_a_price_in_another_currency_is_refused_by_name() -> None:
    prices, _ = _cache(Quote(usd=0.02, currency="EUR"))
    with pytest.raises(BudgetExceededError, match="EUR"):
        await prices.usd(CAT, required=True)
    assert await prices.usd(CAT, required=False) is None


@pytest.mark.parametrize("field", sorted(set(ReduxRequest.model_fields) - {"image", "seed"}))
def test_every_parameter_but_the_seed_may_change_the_price(field: str) -> None:
    other: dict[str, Any] = {
        "size": "512*512",
        "num_inference_steps": 9,
        "guidance_scale": 9.0,
        "num_images": 3,
        "output_format": "png",
        "enable_base64_output": True,
        "enable_sync_mode": True,
    }
    assert price_key(CAT.model_copy(update={field: other[field]})) != price_key(CAT)
    assert price_key(DOG) == price_key(CAT)
