"""What requests cost, asked once for each set of parameters, and again where that was too long ago."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams, ReduxRequest
from prefect_wavespeed.errors import BudgetExceededError, RestyleError


@dataclass(frozen=True)
class Price:
    """A price in USD, and when it was asked for (monotonic clock)."""

    usd: float
    asked: float


class PriceCache:
    """Prices, each asked for once, also when many want to know it at the same time."""

    def __init__(self, client: WaveSpeedClient) -> None:
        self._client = client
        self._known: dict[Hashable, Price | None] = {}  # None: it was asked for and not told
        self._asking: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)

    def known(self, params: ReduxParams) -> float | None:
        """The price in USD as it was told last; None where it was not."""
        price = self._known.get(price_kind(params))
        return price.usd if price else None

    async def usd(self, request: ReduxRequest, *, must: bool) -> float | None:
        """The price in USD; None where it need not be known and is not.

        Raises:
            BudgetExceededError: it must be known and is told in another currency.
            RestyleError: it must be known and cannot be asked for.
        """
        kind = price_kind(request)
        if not must and kind in self._known:
            return self.known(request)
        try:
            return (await self.price(request)).usd
        except RestyleError:
            if must:
                raise
            self._known.setdefault(kind, None)
            return None

    async def price(self, request: ReduxRequest, *, fresh: float = math.inf) -> Price:
        """The price, asked for so many seconds ago at the most.

        Raises:
            BudgetExceededError: it is told in another currency.
            RestyleError: it cannot be asked for.
        """
        kind, called = price_kind(request), time.monotonic()
        async with self._asking[kind]:
            known = self._known.get(kind)
            if known is None or called - known.asked > fresh:
                asked = time.monotonic()
                quote = await self._client.price(request)
                if quote.currency != "USD":
                    raise BudgetExceededError(
                        f"max_cost_usd cannot be kept: the price is told in {quote.currency}"
                    )
                known = self._known[kind] = Price(quote.usd, asked)
            return known


def price_kind(params: ReduxParams) -> Hashable:
    """All that a price may depend on: everything but the picture and the seed."""
    return (
        params.size,
        params.num_inference_steps,
        params.guidance_scale,
        params.num_images,
        params.output_format,
        params.enable_base64_output,
        params.enable_sync_mode,
    )
