"""Checks of what a run needs, as `restyle doctor` reports them; and those of settings and clocks."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, Field

from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.ledger.history import MARGIN as HISTORY_MARGIN
from prefect_wavespeed.ledger.history import TOLERANCE as HISTORY_TOLERANCE
from prefect_wavespeed.settings import get_settings

Status = Literal["ok", "warning", "error", "skipped"]

CLOCK = "clock"
STORE_CLOCK = "output's clock"

_WEBHOOK_TOLERANCE = timedelta(seconds=300)  # WaveSpeedAI's: webhooks that are further off are to be refused
_NOTICEABLE = timedelta(seconds=60)
_EQUAL = timedelta(seconds=3)  # both clocks are read in whole seconds, over a network


class Check(BaseModel):
    """The result of a check.

    Attributes:
        status: ``warning``: it works, but not as it should; ``skipped``: another check has failed.
    """

    name: str
    status: Status
    found: str
    remedy: str = Field(default="", description="What to do; empty where nothing is wrong.")


def ok(name: str, found: str) -> Check:
    """A check that passed."""
    return Check(name=name, status="ok", found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """A check of something that works, but not as it should."""
    return Check(name=name, status="warning", found=found, remedy=remedy)


def error(name: str, found: str, remedy: str) -> Check:
    """A check that failed."""
    return Check(name=name, status="error", found=found, remedy=remedy)


def skipped(name: str, because: str) -> Check:
    """A check that was not made."""
    return Check(name=name, status="skipped", found=f"not checked: {because}")


def check_settings() -> Check:
    """Check the settings in the environment, ``RESTYLE_…``."""
    try:
        settings = get_settings()
    except ConfigurationError as problem:
        return error("settings", problem.message, "change or unset that variable")
    return ok("settings", ", ".join(f"{name} {value:g}" for name, value in settings.model_dump().items()))


def check_clocks(api: timedelta | None, store: timedelta | None) -> list[Check]:
    """Check whether the clocks agree well enough.

    Args:
        api: how far WaveSpeedAI's clock is ahead of this machine's; None where that is unknown.
        store: the same for the output's.
    """
    return [
        skipped(CLOCK, "WaveSpeedAI's time is unknown") if api is None else _check_machine(api),
        skipped(STORE_CLOCK, "nothing could be written") if store is None else _check_output(store, api),
    ]


def _check_machine(api: timedelta) -> Check:
    found = f"{_compare(-api)} WaveSpeedAI's"
    remedy = "let NTP set this machine's clock (`timedatectl set-ntp true`)"
    if abs(api) >= _WEBHOOK_TOLERANCE:
        return error(CLOCK, f"{found}: every webhook would be refused (300 s)", remedy)
    if abs(api) >= _NOTICEABLE:
        return warning(CLOCK, f"{found}: from 300 s on, every webhook would be refused", remedy)
    return ok(CLOCK, found)


def _check_output(store: timedelta, api: timedelta | None) -> Check:
    ahead = store - api if api is not None else store
    found = f"{_compare(ahead)} {'WaveSpeedAI' if api is not None else 'this machine'}'s"
    if abs(ahead) < HISTORY_TOLERANCE:
        return ok(STORE_CLOCK, found)
    risk = (
        "lost submissions would not be found (1 h)"
        if abs(ahead) >= HISTORY_MARGIN
        else "a lost submission may be mistaken for an earlier or later one (300 s) once a clock is corrected"
    )
    return error(
        STORE_CLOCK, f"{found}: {risk}, and be billed twice", "let NTP set the clock of the storage server"
    )


def _compare(ahead: timedelta) -> str:
    if abs(ahead) <= _EQUAL:
        return "agrees with"
    seconds = abs(ahead).total_seconds()
    return f"{seconds:,.0f} s {'ahead of' if ahead > timedelta() else 'behind'}"
