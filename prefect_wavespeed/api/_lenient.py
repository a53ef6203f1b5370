"""Types of fields that the API may send as null, or in several forms."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator

_T = TypeVar("_T")

_LONG_FRACTION = re.compile(r"(\.\d{6})\d+")


def _microseconds(value: Any) -> Any:
    """Nanoseconds are cut off: datetime has none."""
    if not value:
        return None
    return _LONG_FRACTION.sub(r"\1", value) if isinstance(value, str) else value


def _aware(value: datetime | None) -> datetime | None:
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


Moment = Annotated[datetime | None, BeforeValidator(_microseconds), AfterValidator(_aware)]
"""A time with a time zone, UTC where it has none; None for null and for an empty text."""

Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A text; empty for null."""

Items = Annotated[list[_T], BeforeValidator(lambda value: [] if value is None else value)]
"""A list; empty for null."""
