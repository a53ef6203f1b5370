"""Whether WaveSpeedAI accepts the key, and what an image costs. Nothing is created."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.errors import AuthenticationError, InsufficientCreditsError, RestyleError
from prefect_wavespeed.inspect.checks import Check, error, ok, skipped, warning

KEY, PRICE, BALANCE = "WaveSpeed key", "price", "balance"

_ONE = ReduxRequest(image="https://example.com/image.jpg", seed=0)  # quoted, never submitted
_T = TypeVar("_T")


async def check_api(client: WaveSpeedClient) -> list[Check]:
    """Check the key, the price of one image and the balance; the client then knows the API's clock, too."""
    balance, price = await asyncio.gather(_result_of(client.balance()), _result_of(client.price(_ONE)))
    key = _key(client, balance)
    if key.status == "error":
        return [key, *account_skipped(KEY)[1:]]
    return [key, _price(price), _balance(balance, price)]


def account_skipped(because: str) -> list[Check]:
    """The checks of an account that cannot be examined, because of another check."""
    return [skipped(name, f"{because}: see above") for name in (KEY, PRICE, BALANCE)]


async def _result_of(call: Awaitable[_T]) -> _T | RestyleError:
    try:
        return await call
    except RestyleError as problem:
        return problem


def _key(client: WaveSpeedClient, balance: float | RestyleError) -> Check:
    if isinstance(balance, AuthenticationError):
        return error(
            KEY,
            balance.message,
            "set WAVESPEED_API_KEY to a key of your account (WaveSpeedAI's dashboard lists them) and run "
            "`restyle setup`, which saves it as the Secret block",
        )
    if isinstance(balance, float | InsufficientCreditsError):
        return ok(KEY, f"accepted by {client.base_url}")
    return error(
        KEY,
        balance.message,
        f"check that {client.base_url} (the block's base_url) can be reached from here: network, proxy, "
        "WaveSpeedAI's status page",
    )


def _price(price: Quote | RestyleError) -> Check:
    if isinstance(price, RestyleError):
        remedy = "max_cost_usd cannot be enforced without it: try again later"
        return warning(PRICE, f"unknown: {price.message}", remedy)
    return ok(PRICE, f"{price.usd:g} {price.currency} for one image of {_ONE.size}")


def _balance(balance: float | RestyleError, price: Quote | RestyleError) -> Check:
    remedy = "top up the account in WaveSpeedAI's dashboard"
    if isinstance(balance, RestyleError):
        return error(BALANCE, balance.message, remedy)
    if isinstance(price, RestyleError) or not price.usd:
        found = f"{balance:g} USD"
        return ok(BALANCE, found) if balance > 0 else error(BALANCE, found, remedy)
    if balance < price.usd:
        return error(BALANCE, f"{balance:g} USD, and one image costs {price.usd:g} USD", remedy)
    return ok(BALANCE, f"{balance:g} USD: enough for {int(balance / price.usd + 1e-6):,} such images")
