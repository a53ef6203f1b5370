"""A check of what a run needs, and what came of it: what `restyle doctor` tells, a line each."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, Field

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.settings import get_settings

Status = Literal["ok", "warning", "error", "skipped"]

CLOCK = "clock"
STORE_CLOCK = "output's clock"

_WEBHOOK = timedelta(seconds=300)  # WaveSpeedAI's: older or newer webhooks are to be refused
_HISTORY = timedelta(hours=1)  # our own: history.MARGIN
_NOTICEABLE = timedelta(seconds=60)
_SAME = timedelta(seconds=3)  # both clocks are told in whole seconds, over a network


class Check(BaseModel):
    """What a check found.

    Attributes:
        status: ``warning``: it works, but look at it; ``skipped``: not checked, because another check failed.
    """

    name: str
    status: Status
    found: str
    remedy: str = Field(default="", description="What to do; empty where all is well.")


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, status="ok", found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """It works, but not as well as it could."""
    return Check(name=name, status="warning", found=found, remedy=remedy)


def error(name: str, found: str, remedy: str) -> Check:
    """It does not work."""
    return Check(name=name, status="error", found=found, remedy=remedy)


def skipped(name: str, because: str) -> Check:
    """It cannot be told."""
    return Check(name=name, status="skipped", found=f"not checked: {because}")


def check_settings() -> Check:
    """The settings of the environment, ``RESTYLE_…``."""
    try:
        settings = get_settings()
    except ConfigurationError as problem:
        return error("settings", problem.message, "change or unset the variable that is named")
    return ok("settings", ", ".join(f"{name} {value:g}" for name, value in settings.model_dump().items()))


def check_clocks(api: timedelta | None, store: timedelta | None) -> list[Check]:
    """Whether the clocks agree well enough.

    Args:
        api: how far WaveSpeedAI's clock is ahead of this machine's; None where that is not known.
        store: the same of the output's.
    """
    return [
        skipped(CLOCK, "WaveSpeedAI did not tell its time") if api is None else _machine(api),
        skipped(STORE_CLOCK, "nothing could be written") if store is None else _store(store, api),
    ]


def _machine(api: timedelta) -> Check:
    found = f"{_apart(-api)} WaveSpeedAI's"
    remedy = "let NTP set this machine's clock (`timedatectl set-ntp true`)"
    if abs(api) >= _WEBHOOK:
        return error(CLOCK, f"{found}: every webhook would be refused (300 s)", remedy)
    if abs(api) >= _NOTICEABLE:
        return warning(CLOCK, f"{found}: from 300 s on, every webhook would be refused", remedy)
    return ok(CLOCK, found)


def _store(store: timedelta, api: timedelta | None) -> Check:
    apart = store - api if api is not None else store
    found = f"{_apart(apart)} {'WaveSpeedAI' if api is not None else 'this machine'}'s"
    if abs(apart) >= _HISTORY:
        told = "lost submissions would not be found (1 h), and could be billed twice"
        return error(STORE_CLOCK, f"{found}: {told}", "let NTP set the clock of the storage server")
    if abs(apart) >= _WEBHOOK:
        return warning(STORE_CLOCK, found, "let NTP set the clock of the storage server")
    return ok(STORE_CLOCK, found)


def _apart(ahead: timedelta) -> str:
    if abs(ahead) <= _SAME:
        return "agrees with"
    seconds = abs(ahead).total_seconds()
    return f"{seconds:,.0f} s {'ahead of' if ahead > timedelta() else 'behind'}"
