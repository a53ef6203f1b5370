"""A value in a manifest: as it is shown, and of which kind it is."""

from __future__ import annotations

import json
import math
from typing import Literal

from prefect_wavespeed.errors import redact

Kind = Literal["a whole number", "a number", "true or false", "text", "text or a number"]
"""What a column holds."""

# What is copied from a document or a file browser brings them along: zero width, direction, byte order.
_INVISIBLE = "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"
_BLANKS = _INVISIBLE + (  # what str.strip() takes away
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_SHOWN_LENGTH = 80


def strip(text: str) -> str:
    """A text without blanks around it, no-break and invisible ones included."""
    return text.strip(_BLANKS)


def show(value: object) -> str:
    """A value as it would be typed, short and safe."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    text = redact(text)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"


def is_empty(value: object) -> bool:
    """Whether a value means "not given"."""
    match value:
        case None:
            return True
        case str():
            return not value.strip()
        case float():  # pandas writes missing values as NaN
            return math.isnan(value)
    return False


def is_kind(kind: Kind, value: object) -> bool:
    """Whether a value is of a kind."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    number = integer or isinstance(value, float)
    match kind:
        case "a whole number":  # pandas makes floats of a column of integers with gaps
            return integer or (isinstance(value, float) and value.is_integer())
        case "a number":
            return number
        case "true or false":
            return isinstance(value, bool)
        case "text":
            return isinstance(value, str)
    return number or isinstance(value, str)


def as_text(value: object) -> str | None:
    """Text, or a number as text; None for anything else."""
    match value:
        case str():
            return value
        case float() if value.is_integer():
            return str(int(value))
        case int() | float() if not isinstance(value, bool):
            return str(value)
    return None
