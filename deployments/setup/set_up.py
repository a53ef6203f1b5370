"""Creating everything that deployments need in Prefect. Safe to repeat."""

from __future__ import annotations

from prefect_wavespeed.batch.created_object import refuse_overlap
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.deployments.setup.automations import set_up_automations
from prefect_wavespeed.deployments.setup.output import set_up_output
from prefect_wavespeed.deployments.setup.pool import requested_runs, set_up_pool
from prefect_wavespeed.deployments.setup.receiver import set_up_receiver
from prefect_wavespeed.deployments.setup.settings import resolve_settings, save_settings
from prefect_wavespeed.deployments.setup.tiers import Tier
from prefect_wavespeed.deployments.setup.wavespeed import set_up_wavespeed


async def set_up(*, out: str | None, watch: str | None, tier: Tier | None) -> bool:
    """Create what is missing, and print a line about each thing.

    The environment says the rest (docs/deploying.md). Nothing is saved unless all settings are valid.

    Args:
        out: where outputs go, s3://bucket/prefix or a directory; None keeps what is saved.
        watch: s3://bucket/prefix/ whose new objects are restyled; None keeps what is saved.
        tier: the account's level; None keeps the limits.

    Returns:
        Whether settings changed, so that the deployments have to be deployed again.

    Raises:
        ConfigurationError: the API key is missing, or a setting is not valid.
    """
    settings, runs = await resolve_settings(watch, out), requested_runs()
    if settings.watching:
        refuse_overlap(settings.watch, out or (await open_output(settings.output)).uri)
    await set_up_wavespeed(tier)
    await set_up_output(out)
    await set_up_receiver()
    await set_up_pool(settings.work_pool, runs)
    changed = await save_settings(settings)
    await set_up_automations()
    return changed
