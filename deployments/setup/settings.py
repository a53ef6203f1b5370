"""The deployments' settings: Prefect variables, because prefect.yaml has no defaults for an environment's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, get_args

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, TAG, WORK_POOL, Setting, variable
from prefect_wavespeed.deployments.setup._report import say
from prefect_wavespeed.deployments.setup.output import output_block
from prefect_wavespeed.errors import ConfigurationError

NOTHING = "none"
"""Stands where no bucket is watched: nothing begins like it, where an empty prefix would match everything."""


@dataclass(frozen=True)
class Settings:
    """What prefect.yaml is filled in with; each is the variable ``restyle_`` and its name.

    Attributes:
        work_pool: that runs wait in.
        image: of Docker and Kubernetes pools.
        watch: ``s3://bucket/prefix/`` whose objects are restyled as they come, or ``none``.
        watching: whether there is one.
        output: where pictures go, as flows are told.
        schedule: of the nightly batch, as cron (UTC).
        manifest: of the nightly batch.
        scheduled: whether there is one.
    """

    work_pool: str
    image: str
    watch: str
    watching: bool
    output: str
    schedule: str
    manifest: str
    scheduled: bool


async def wanted_settings(watch: str | None, out: str | None) -> Settings:
    """What the environment says, else what is saved, else a default that serves.

    Args:
        watch: what the command was told to watch; empty for nothing.
        out: where it was told that outputs go, as a bucket's prefix or a directory.

    Raises:
        ConfigurationError: one of them cannot be used.
    """
    saved = {name: str(value) for name, value in (await _saved()).items()}

    def setting(name: Setting, default: str) -> str:
        return os.environ.get(f"RESTYLE_{name.upper()}") or saved.get(name) or default

    if watch is None:
        watch = os.environ.get("RESTYLE_WATCH", saved.get("watch", NOTHING))
    watch = _watched(watch)
    # whoever names no manifest means what is watched, also when that changes
    named = saved.get("manifest") if saved.get("manifest") != saved.get("watch") else None
    manifest = os.environ.get("RESTYLE_MANIFEST") or named or watch
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
    )


def _watched(watch: str) -> str:
    """As a folder: what begins like ``s3://bucket/in`` is not meant to be all that lies below it."""
    if watch in ("", NOTHING):
        return NOTHING
    bucket, _, _ = watch.removeprefix("s3://").partition("/")
    if not watch.startswith("s3://") or not bucket:
        raise ConfigurationError(f"--watch {watch}: name s3://bucket/prefix/")
    if any(character in watch for character in "*?["):
        raise ConfigurationError(f"--watch {watch}: a prefix with * ? or [ cannot be watched")
    return watch if watch.endswith("/") else f"{watch}/"


async def _saved() -> dict[str, Any]:
    async with get_client() as client:
        found = {name: await client.read_variable_by_name(variable(name)) for name in get_args(Setting)}
    return {name: held.value for name, held in found.items() if held}


async def save_settings(settings: Settings) -> bool:
    """Save them as variables.

    Returns:
        Whether any is new, so that the deployments are to be deployed again.
    """
    saved = await _saved()
    async with get_client() as client:
        for name in get_args(Setting):
            value, name_in_prefect = getattr(settings, name), variable(name)
            if name not in saved:
                await client.create_variable(VariableCreate(name=name_in_prefect, value=value, tags=[TAG]))
                say("made", f"variable/{name_in_prefect}", _told(value))
            elif saved[name] != value:
                await client.update_variable(VariableUpdate(name=name_in_prefect, value=value))
                say("updated", f"variable/{name_in_prefect}", f"{_told(value)}, was {_told(saved[name])}")
            else:
                say("found", f"variable/{name_in_prefect}", f"{_told(value)}, left alone")
    return saved != vars(settings)


def _told(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
