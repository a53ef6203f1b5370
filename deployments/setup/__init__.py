"""`restyle setup`: all that the deployments need in Prefect, made where it is missing. Safe to repeat."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_wavespeed.deployments.cli._prefect import quieten

if TYPE_CHECKING:
    from prefect_wavespeed.deployments.setup.wavespeed import Tier


@dataclass(frozen=True)
class Options:
    """What the command was told; the rest is the environment's (docs/deploying.md).

    Attributes:
        out: where outputs go: s3://bucket/prefix or a directory; None leaves that as it is.
        watch: s3://bucket/prefix/ whose objects are to be restyled as they come; None leaves that as it is.
        tier: the account's level; None leaves the limits as they are.
    """

    out: str | None = None
    watch: str | None = None
    tier: Tier | None = None


def run(options: Options) -> int:
    """Make what is missing, and print what was found, made and left alone.

    Returns:
        The exit status: 0.

    Raises:
        ConfigurationError: there is no API key, or a setting cannot be used.
    """
    quieten()
    if asyncio.run(_set_up(options)):
        # a project of one's own, by `restyle init`, or a clone of this one
        file = "" if Path("prefect.yaml").exists() else " --prefect-file deployments/prefect.yaml"
        print(f"now run  prefect --no-prompt deploy{file} --all")
    return 0


async def _set_up(options: Options) -> bool:
    """Do so, and return whether deployments are to be made anew."""
    from prefect_wavespeed.batch.created_object import refuse_overlap
    from prefect_wavespeed.blocks.output import open_output
    from prefect_wavespeed.deployments.setup.automations import set_up_automations
    from prefect_wavespeed.deployments.setup.output import set_up_output
    from prefect_wavespeed.deployments.setup.pool import set_up_pool, wanted_runs
    from prefect_wavespeed.deployments.setup.receiver import set_up_receiver
    from prefect_wavespeed.deployments.setup.settings import save_settings, wanted_settings
    from prefect_wavespeed.deployments.setup.wavespeed import set_up_wavespeed

    settings, runs = await wanted_settings(options.watch, options.out), wanted_runs()
    if settings.watching:
        refuse_overlap(settings.watch, options.out or (await open_output(settings.output)).uri)
    await set_up_wavespeed(options.tier)
    await set_up_output(options.out)
    await set_up_receiver()
    await set_up_pool(settings.work_pool, runs)
    changed = await save_settings(settings)
    await set_up_automations()
    return changed
