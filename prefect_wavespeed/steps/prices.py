"""What requests cost: fetched once in a while for each set of parameters, so that a change is noticed."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from cachetools import TTLCache

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams, ReduxRequest
from prefect_wavespeed.errors import BudgetExceededError, RestyleError

MAX_AGE = 300.0
"""Seconds for which a price is taken as it was; a process may live for weeks."""

_UNKNOWN_SECONDS = 60.0  # in which a call that failed is not repeated for a price that nobody requires
_KINDS = 10_000


@dataclass(frozen=True)
class Price:
    """A price.

    Attributes:
        usd: of the whole request, discounts included.
        requested_at: when it was asked for, on the monotonic clock.
    """

    usd: float
    requested_at: float


class PriceCache:
    """Prices of one API, each fetched by a single call, also where many need it at the same time."""

    def __init__(self, client: WaveSpeedClient) -> None:
        self._client = client
        self._prices: dict[Hashable, Price] = {}
        self._unknown: TTLCache[Hashable, bool] = TTLCache(
            _KINDS, ttl=_UNKNOWN_SECONDS
        )  # the API did not say
        self._locks: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)

    def cached(self, params: ReduxParams) -> float | None:
        """Return the price in USD as it was fetched last; None where it was not."""
        price = self._prices.get(price_key(params))
        return price.usd if price else None

    async def usd(self, request: ReduxRequest, *, required: bool) -> float | None:
        """Return the price in USD; where it is not required and the API does not say, the last one or None.

        Raises:
            BudgetExceededError: it is required and not in USD.
            RestyleError: it is required and could not be fetched.
        """
        key = price_key(request)
        if price := self._fresh(key, time.monotonic() - MAX_AGE):
            return price.usd
        if not required and key in self._unknown:
            return self.cached(request)
        try:
            return (await self.price(request)).usd
        except RestyleError:
            if required:
                raise
            self._unknown[key] = True
            return self.cached(request)

    async def price(self, request: ReduxRequest, *, max_age: float = MAX_AGE) -> Price:
        """Return the price, requested at most ``max_age`` seconds ago.

        Raises:
            BudgetExceededError: it is not in USD.
            RestyleError: it could not be fetched.
        """
        key, since = price_key(request), time.monotonic() - max_age
        async with self._locks[key]:
            price = self._fresh(key, since)
            if price is None:
                requested_at = time.monotonic()
                quote = await self._client.price(request)
                if quote.currency != "USD":
                    raise BudgetExceededError(
                        f"WaveSpeed quotes the price in {quote.currency}: only a price in USD can be "
                        "compared with max_cost_usd and the balance"
                    )
                price = self._prices[key] = Price(quote.usd, requested_at)
            return price

    def _fresh(self, key: Hashable, since: float) -> Price | None:
        price = self._prices.get(key)
        return price if price and price.requested_at >= since else None


def price_key(params: ReduxParams) -> Hashable:
    """Return all that a price may depend on: every parameter but the seed."""
    return (
        params.size,
        params.num_inference_steps,
        params.guidance_scale,
        params.num_images,
        params.output_format,
        params.enable_base64_output,
        params.enable_sync_mode,
    )
