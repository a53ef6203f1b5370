"""Manifests of a day: ``s3://bucket/in/dt={date}/`` stands for one manifest a day."""

from __future__ import annotations

import re
from datetime import date, datetime
from zoneinfo import ZoneInfo

from prefect_wavespeed.batch.manifest.read import Manifest, safe_name
from prefect_wavespeed.errors import ConfigurationError, ManifestError, redact

# What is meant as a day to fill in, rightly written or not: `{date}`, `{Date}`, `{{ next_ds }}`, `{date-1}`.
# Other braces are part of names that people have: `{draft}`, `{a,b}`, `{7b0d…}`.
_BRACES = re.compile(
    r"\{+\s*(?:[a-z]+_)*(?:dat|dates?|datum|days?|today|yesterday|ds|dt|yyyy)(?![a-z0-9])"
    r"(?::[^{}]*|[^{},]*)\}+",
    re.IGNORECASE,
)
_DATE = re.compile(r"\{date(?::([^{}]*))?\}")
_FORM = "%Y-%m-%d"
_PARTS = {"%Y", "%m", "%d"}
_DIRECTIVE = re.compile(r"%.?")


def is_template(manifest: Manifest) -> bool:
    """Whether a manifest has a date to fill in: ``{date}``, or ``{date:…}`` with ``%Y``, ``%m`` and ``%d``.

    Raises:
        ManifestError: a date is written another way, or does not tell one day from another.
    """
    if not isinstance(manifest, str):
        return False
    asked: set[str] = set()
    for braces in _BRACES.findall(manifest):
        found = _DATE.fullmatch(braces)
        parts = set(_DIRECTIVE.findall(_form(found))) if found else set()
        if not parts or parts - _PARTS:
            raise _refused(manifest, f"{redact(braces)} cannot be filled in")
        asked |= parts
    if asked and asked != _PARTS:
        missing = ", ".join(sorted(_PARTS - asked))
        raise _refused(manifest, f"its date has no {missing}, so different days would have the same manifest")
    return bool(asked)


def filled(manifest: Manifest, day: date | None) -> Manifest:
    """The manifest of a day; one without a date is returned as it is.

    Raises:
        ManifestError: as `is_template`; or it has a date and no day is given, or the other way round.
    """
    if is_template(manifest) == (day is not None):
        return _DATE.sub(lambda found: f"{day:{_form(found)}}", str(manifest)) if day else manifest
    if day is None:
        raise ManifestError(f"manifest {safe_name(manifest)}: it has a date: say of which day with date")
    raise ManifestError(
        f"date {day}: manifest {safe_name(manifest)} has no {{date}}: leave date out, or give a manifest "
        "such as s3://bucket/in/dt={date}/"
    )


def day_at(moment: datetime, zone: str | None) -> date:
    """The day that it is at a moment.

    Args:
        moment: with its own time zone.
        zone: where, as ``America/New_York``; None is the time zone of this machine.

    Raises:
        ConfigurationError: this machine does not know the time zone.
    """
    try:
        return moment.astimezone(ZoneInfo(zone) if zone else None).date()
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(
            f"time zone {zone!r}: not known on this machine: correct the schedule's, or install the time "
            "zones with `pip install tzdata`"
        ) from None


def _form(found: re.Match[str]) -> str:
    return _FORM if found[1] is None else found[1]


def _refused(manifest: str, problem: str) -> ManifestError:
    return ManifestError(
        f"manifest {safe_name(manifest)}: {problem}: give {{date}} (2026-11-01), or a form of it with %Y, %m "
        "and %d such as {date:%Y/%m/%d}"
    )
