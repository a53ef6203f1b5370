"""Options that are days."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from prefect_wavespeed.errors import ConfigurationError, redact

_DAYS = re.compile(r"(\d{1,5})d", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def parse_since(since: str, now: datetime | None = None) -> datetime:
    """Return the start of a day, UTC.

    Args:
        since: the day as YYYY-MM-DD, or a number of days ago such as 7d.
        now: by default the present.

    Raises:
        ConfigurationError: it is neither, or lies in the future.
    """
    now = now or datetime.now(UTC)
    try:
        if days := _DAYS.fullmatch(since):
            day = now.date() - timedelta(days=int(days[1]))
        elif _DAY.fullmatch(since):
            day = date.fromisoformat(since)
        else:
            raise ValueError
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"--since {redact(since)}: give a day as YYYY-MM-DD, or a number of days such as 7d"
        ) from None
    if day > now.date():
        raise ConfigurationError(f"--since {since}: this day is in the future (today is {now.date()}, UTC)")
    return datetime.combine(day, time(), UTC)


def parse_day(flag: str, given: str) -> date:
    """Return a day.

    Args:
        flag: the option, for the error.
        given: the day as YYYY-MM-DD.

    Raises:
        ConfigurationError: there is no such day, or it has another form.
    """
    try:
        if not _DAY.fullmatch(given):
            raise ValueError
        return date.fromisoformat(given)
    except ValueError:
        raise ConfigurationError(f"{flag} {redact(given)}: no such day: give one as YYYY-MM-DD") from None
