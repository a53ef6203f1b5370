"""Settings of the deployments, as Prefect variables: prefect.yaml cannot fall back on other defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf
from typing import Any, get_args

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, TAG, WORK_POOL, Setting, variable
from prefect_wavespeed.deployments.setup.output import output_block
from prefect_wavespeed.deployments.setup.report import report
from prefect_wavespeed.errors import ConfigurationError

NOTHING = "none"
"""Stands for no watched prefix: no URI begins with it, whereas an empty prefix would match every object."""

_NO_CAP = "none: a night may spend the whole balance; set RESTYLE_MAX_COST_USD to a cap in USD"


@dataclass(frozen=True)
class Settings:
    """Values for prefect.yaml; each is saved as a variable, ``restyle_`` and its name.

    Attributes:
        work_pool: of the deployments.
        image: of Docker and Kubernetes pools.
        watch: ``s3://bucket/prefix/`` whose objects are restyled as they arrive, or ``none``.
        watching: whether there is one.
        output: where pictures go, as flows take it.
        schedule: of the nightly batch, as cron (UTC).
        manifest: of the nightly batch.
        scheduled: whether there is one.
        max_cost_usd: cap of a batch, unless it is started with options of its own, in USD; None for none.
    """

    work_pool: str
    image: str
    watch: str
    watching: bool
    output: str
    schedule: str
    manifest: str
    scheduled: bool
    max_cost_usd: float | None


async def resolve_settings(watch: str | None, out: str | None) -> Settings:
    """Take each setting from the command line, the environment, what is saved, or a default, in this order.

    Args:
        watch: the prefix to watch by the command line; empty for none, None for no word on it.
        out: where outputs go by the command line: a bucket's prefix or a directory.

    Raises:
        ConfigurationError: one of them is not valid.
    """
    kept = await _read_saved()
    saved = {name: str(value) for name, value in kept.items()}

    def setting(name: Setting, default: str) -> str:
        return os.environ.get(f"RESTYLE_{name.upper()}") or saved.get(name) or default

    if watch is None:
        watch = os.environ.get("RESTYLE_WATCH", saved.get("watch", NOTHING))
    watch = _as_folder(watch)
    # without a manifest of its own the nightly batch follows the watched prefix, also when that changes
    own_manifest = saved.get("manifest") if saved.get("manifest") != saved.get("watch") else None
    manifest = os.environ.get("RESTYLE_MANIFEST") or own_manifest or watch
    schedule = setting("schedule", "0 2 * * *")
    try:
        CronSchedule(cron=schedule)
    except ValidationError:
        raise ConfigurationError(
            f"RESTYLE_SCHEDULE {schedule}: not a cron expression, such as '0 2 * * *'"
        ) from None
    return Settings(
        work_pool=setting("work_pool", WORK_POOL),
        image=setting("image", "prefect-wavespeed:latest"),
        watch=watch,
        watching=watch != NOTHING,
        output=output_block(out) if out else setting("output", DEFAULT_OUTPUT),
        schedule=schedule,
        manifest=manifest,
        scheduled=manifest != NOTHING,
        max_cost_usd=_cap(os.environ.get("RESTYLE_MAX_COST_USD"), kept.get("max_cost_usd")),
    )


def _cap(given: str | None, kept: float | None) -> float | None:
    """The cap in USD: what the environment says, empty for none; what is saved where it says nothing."""
    if given is None:
        return kept
    if not given.strip():
        return None
    try:
        usd = float(given)
    except ValueError:
        usd = 0.0
    if not 0 < usd < inf:
        raise ConfigurationError(
            f"RESTYLE_MAX_COST_USD {given}: must be more than 0 USD, such as 20; empty for no cap"
        )
    return usd


def _as_folder(watch: str) -> str:
    """End the prefix with a slash: ``s3://bucket/in`` does not mean ``s3://bucket/input/``."""
    if watch in ("", NOTHING):
        return NOTHING
    bucket, _, _ = watch.removeprefix("s3://").partition("/")
    if not watch.startswith("s3://") or not bucket:
        raise ConfigurationError(f"--watch {watch}: not a prefix in S3: give s3://bucket/prefix/")
    if any(character in watch for character in "*?["):
        raise ConfigurationError(
            f"--watch {watch}: a prefix with *, ? or [ cannot be watched: choose another"
        )
    return watch if watch.endswith("/") else f"{watch}/"


async def _read_saved() -> dict[str, Any]:
    async with get_client() as client:
        found = {name: await client.read_variable_by_name(variable(name)) for name in get_args(Setting)}
    return {name: saved.value for name, saved in found.items() if saved}


async def save_settings(settings: Settings) -> bool:
    """Save the settings as variables.

    Returns:
        Whether any changed, so that the deployments have to be deployed again.
    """
    saved = await _read_saved()
    async with get_client() as client:
        for name in get_args(Setting):
            value, key = getattr(settings, name), variable(name)
            shown = _NO_CAP if name == "max_cost_usd" and value is None else _shown(value)
            if name not in saved:
                await client.create_variable(VariableCreate(name=key, value=value, tags=[TAG]))
                report("created", f"variable/{key}", shown)
            elif saved[name] != value:
                await client.update_variable(VariableUpdate(name=key, value=value))
                report("updated", f"variable/{key}", f"{shown}, was {_shown(saved[name])}")
            else:
                report("found", f"variable/{key}", f"{shown}, unchanged")
    return saved != vars(settings)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
