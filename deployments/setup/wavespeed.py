"""The API key, the `WaveSpeed` block that refers to it, and how fast its account may go."""

from __future__ import annotations

import os
from typing import Any

from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from prefect_wavespeed.blocks.names import API_KEY_SECRET, IN_FLIGHT_LIMIT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.deployments.setup._load import load
from prefect_wavespeed.deployments.setup._report import say
from prefect_wavespeed.deployments.setup.tiers import TIERS, Tier
from prefect_wavespeed.errors import ConfigurationError


async def set_up_wavespeed(tier: Tier | None) -> None:
    """Save key, block and limit.

    Args:
        tier: the account's level; None leaves the limits as they are.

    Raises:
        ConfigurationError: there is no API key, or WAVESPEED_BASE_URL is no safe place for it, or
            RESTYLE_WEBHOOK_URL none for webhooks.
    """
    await WaveSpeed.register_type_and_schema()
    there, saved = await load(WaveSpeed, WAVESPEED_BLOCK), await load(Secret, API_KEY_SECRET)
    secret, changes = _secret(saved), _changes(tier)
    for block in (WaveSpeed(api_key=secret), _changed(there, secret, changes)):
        await block.get_client().aclose()  # refuses what cannot be used before anything is saved
    secret = await _save_secret(secret, saved)
    if tier:
        await _limit(tier)
    await _save_block(_changed(there, secret, changes), there)


def _changed(there: WaveSpeed | None, secret: Secret, changes: dict[str, Any]) -> WaveSpeed:  # type: ignore[type-arg]
    """The block as it is wanted; the key that it refers to is its own matter."""
    return (there or WaveSpeed(api_key=secret)).model_copy(update=changes)


def _key() -> str:
    return os.environ.get("WAVESPEED_API_KEY", "").strip()


def _secret(saved: Secret | None) -> Secret:  # type: ignore[type-arg]
    """The key of the environment, or else the saved one."""
    key = _key()
    if saved and key in ("", saved.value.get_secret_value()):
        return saved
    if not key:
        raise ConfigurationError(
            "no WaveSpeedAI API key: set WAVESPEED_API_KEY and run `restyle setup` again"
        )
    return Secret(value=SecretStr(key))


def _changes(tier: Tier | None) -> dict[str, Any]:
    """What the environment and the tier say of the block's fields."""
    changes: dict[str, Any] = {}
    if url := os.environ.get("WAVESPEED_BASE_URL"):
        changes["base_url"] = url
    if (url := os.environ.get("RESTYLE_WEBHOOK_URL")) is not None:  # empty: polled again
        changes["webhook_url"] = SecretStr(url.strip()) if url.strip() else None
    if tier:
        per_minute, in_flight = TIERS[tier]
        changes |= {
            "requests_per_minute": per_minute,
            "max_in_flight": in_flight,
            "concurrency_limit": IN_FLIGHT_LIMIT,
        }
    return changes


async def _save_secret(secret: Secret, saved: Secret | None) -> Secret:  # type: ignore[type-arg]
    if secret is saved:
        told = "holds this key, left alone" if _key() else "left alone: WAVESPEED_API_KEY is not set"
        say("found", f"secret/{API_KEY_SECRET}", told)
        return secret
    await secret.save(API_KEY_SECRET, overwrite=True)
    say("updated" if saved else "made", f"secret/{API_KEY_SECRET}", "from WAVESPEED_API_KEY")
    return await Secret.aload(API_KEY_SECRET)


async def _limit(tier: Tier) -> None:
    _, in_flight = TIERS[tier]
    name = f"global-concurrency-limit/{IN_FLIGHT_LIMIT}"
    async with get_client() as client:
        try:
            there = await client.read_global_concurrency_limit_by_name(IN_FLIGHT_LIMIT)
        except ObjectNotFound:
            await client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=IN_FLIGHT_LIMIT, limit=in_flight)
            )
            say("made", name, f"{in_flight:,} predictions in flight for all runs together")
            return
        if there.limit == in_flight:
            say("found", name, f"{in_flight:,} in flight, left alone")
            return
        await client.update_global_concurrency_limit(
            IN_FLIGHT_LIMIT, GlobalConcurrencyLimitUpdate(limit=in_flight)
        )
        say("updated", name, f"{in_flight:,} in flight, was {there.limit:,}")


async def _save_block(block: WaveSpeed, there: WaveSpeed | None) -> None:
    about = f"for {block.base_url}"
    if block.requests_per_minute and block.max_in_flight:
        about += f", {block.requests_per_minute:,} a minute, {block.max_in_flight:,} in flight"
    if block.webhook_url:
        about += ", with webhooks"
    if there and all(getattr(there, name) == value for name, value in block):
        say("found", f"wavespeed/{WAVESPEED_BLOCK}", f"{about}, left alone")
        return
    await block.save(WAVESPEED_BLOCK, overwrite=True)
    say(
        "updated" if there else "made",
        f"wavespeed/{WAVESPEED_BLOCK}",
        f"{about}, key in secret/{API_KEY_SECRET}",
    )
