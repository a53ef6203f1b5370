"""What requests cost, asked once for each set of parameters."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Hashable

from restyle.client import WaveSpeedClient
from restyle.errors import BudgetExceededError, RestyleError
from restyle.models import ReduxParams, ReduxRequest


class Quotes:
    """Prices in USD, each asked for once, also when many want to know it at the same time."""

    def __init__(self, client: WaveSpeedClient) -> None:
        self._client = client
        self._known: dict[Hashable, float | None] = {}
        self._asking: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)

    def known(self, params: ReduxParams) -> float | None:
        """The price, if it was told already."""
        return self._known.get(_kind(params))

    async def usd(self, request: ReduxRequest, *, must: bool) -> float | None:
        """The price; None where it need not be known and is not.

        Raises:
            BudgetExceededError: it must be known and is told in another currency.
            RestyleError: it must be known and cannot be asked for.
        """
        kind = _kind(request)
        if kind in self._known and (not must or self._known[kind] is not None):
            return self._known[kind]
        async with self._asking[kind]:
            if kind not in self._known or (must and self._known[kind] is None):
                self._known[kind] = await self._ask(request, must=must)
        return self._known[kind]

    async def _ask(self, request: ReduxRequest, *, must: bool) -> float | None:
        try:
            quote = await self._client.price(request)
        except RestyleError:
            if must:
                raise
            return None
        if quote.currency != "USD" and must:
            raise BudgetExceededError(f"max_cost_usd cannot be kept: the price is told in {quote.currency}")
        return quote.usd if quote.currency == "USD" else None


def _kind(params: ReduxParams) -> Hashable:
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
