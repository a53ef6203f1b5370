"""The API key, the `WaveSpeed` block that refers to it, and the limits of its account."""

from __future__ import annotations

import os
from typing import Any

from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.blocks.names import API_KEY_SECRET, IN_FLIGHT_LIMIT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.deployments.saved_blocks import load_if_saved
from prefect_wavespeed.deployments.setup.report import report
from prefect_wavespeed.deployments.setup.tiers import TIERS, Tier
from prefect_wavespeed.errors import ConfigurationError


async def set_up_wavespeed(tier: Tier | None) -> None:
    """Save key, block and limit.

    Args:
        tier: the account's level; None keeps the limits.

    Raises:
        ConfigurationError: there is no API key, or WAVESPEED_BASE_URL or RESTYLE_WEBHOOK_URL is not valid.
    """
    await WaveSpeed.register_type_and_schema()
    saved_block = await load_if_saved(WaveSpeed, WAVESPEED_BLOCK)
    saved_secret = await load_if_saved(Secret, API_KEY_SECRET)
    secret, changes = _secret(saved_secret), _changes(tier)
    for block in (WaveSpeed(api_key=secret), _block(saved_block, secret, changes)):
        await block.get_client().aclose()  # raises for what is not valid, before anything is saved
    secret = await _save_secret(secret, saved_secret)
    if tier:
        await _set_up_limit(TIERS[tier].in_flight)
    await _save_block(_block(saved_block, secret, changes), saved_block)


def _block(saved: WaveSpeed | None, secret: Secret, changes: dict[str, Any]) -> WaveSpeed:  # type: ignore[type-arg]
    """Return the block with its changes; a saved one keeps the secret that it refers to.

    What is known of one API's ways does not hold for another.
    """
    block = (saved or WaveSpeed(api_key=secret)).model_copy(update=changes)
    is_same_api = saved is None or block.base_url.rstrip("/") == saved.base_url.rstrip("/")
    return block if is_same_api else block.model_copy(update={"traits": ApiTraits()})


def _key() -> str:
    return os.environ.get("WAVESPEED_API_KEY", "").strip()


def _secret(saved: Secret | None) -> Secret:  # type: ignore[type-arg]
    """Return the environment's key, or else the saved one."""
    key = _key()
    if saved and key in ("", saved.value.get_secret_value()):
        return saved
    if not key:
        raise ConfigurationError(
            "there is no WaveSpeedAI API key: set WAVESPEED_API_KEY and run `restyle setup` again"
        )
    return Secret(value=SecretStr(key))


def _changes(tier: Tier | None) -> dict[str, Any]:
    """Return the block's fields that the environment and the tier set."""
    changes: dict[str, Any] = {}
    if url := os.environ.get("WAVESPEED_BASE_URL"):
        changes["base_url"] = url
    if (url := os.environ.get("RESTYLE_WEBHOOK_URL")) is not None:  # empty: back to polling
        changes["webhook_url"] = SecretStr(url.strip()) if url.strip() else None
    if tier:
        changes["requests_per_minute"], changes["max_in_flight"] = TIERS[tier]
        changes["concurrency_limit"] = IN_FLIGHT_LIMIT
    return changes


async def _save_secret(secret: Secret, saved: Secret | None) -> Secret:  # type: ignore[type-arg]
    name = f"secret/{API_KEY_SECRET}"
    if secret is saved:
        report("found", name, f"unchanged: {'the same key' if _key() else 'WAVESPEED_API_KEY is not set'}")
        return secret
    await secret.save(API_KEY_SECRET, overwrite=True)
    report("updated" if saved else "created", name, "from WAVESPEED_API_KEY")
    return await Secret.aload(API_KEY_SECRET)


async def _set_up_limit(in_flight: int) -> None:
    name = f"global-concurrency-limit/{IN_FLIGHT_LIMIT}"
    async with get_client() as client:
        try:
            saved = await client.read_global_concurrency_limit_by_name(IN_FLIGHT_LIMIT)
        except ObjectNotFound:
            limit = GlobalConcurrencyLimitCreate(name=IN_FLIGHT_LIMIT, limit=in_flight)
            await client.create_global_concurrency_limit(limit)
            report("created", name, f"{in_flight:,} predictions in flight for all runs together")
            return
        if saved.limit == in_flight:
            report("found", name, f"{in_flight:,} in flight, unchanged")
            return
        update = GlobalConcurrencyLimitUpdate(limit=in_flight)
        await client.update_global_concurrency_limit(IN_FLIGHT_LIMIT, update)
        report("updated", name, f"{in_flight:,} in flight, was {saved.limit:,}")


async def _save_block(block: WaveSpeed, saved: WaveSpeed | None) -> None:
    name, details = f"wavespeed/{WAVESPEED_BLOCK}", f"for {block.base_url}"
    if block.requests_per_minute and block.max_in_flight:
        details += f", {block.requests_per_minute:,} a minute, {block.max_in_flight:,} in flight"
    if block.webhook_url:
        details += ", with webhooks"
    if saved and all(getattr(saved, field) == value for field, value in block):
        report("found", name, f"{details}, unchanged")
        return
    await block.save(WAVESPEED_BLOCK, overwrite=True)
    report("updated" if saved else "created", name, f"{details}, key in secret/{API_KEY_SECRET}")
