"""Columns of a team's own, which the report carries beside a row's outcome; they never reach a job.

A value keeps its type: text, a number, or true or false; dates become ISO 8601 text, lists and objects JSON.
All values of a column are of one type, so that a table can hold them and a page can filter by them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any, Literal, TypeAlias

from prefect_wavespeed.errors import ManifestError, redact
from prefect_wavespeed.urls import without_signature

MAX_COLUMNS = 50
MAX_LENGTH = 1_000  # characters of a value; the rest is cut

Value: TypeAlias = str | int | float | bool
Values: TypeAlias = dict[str, Value]
ColumnType = Literal["string", "integer", "number", "boolean"]
"""What a column holds, as JSON Schema says it."""

_INTEGER = re.compile(r"-?(0|[1-9]\d{0,14})", re.ASCII)  # "007" is a name, and so is what a float cannot hold
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})\.\d{1,14}", re.ASCII)
# A URL within a text: to a blank, a delimiter or the next URL. Some write the slashes of JSON as "\\/".
_URL = re.compile(r"""(?i)https?:(?:\\?/){2}(?:(?!https?:\\?/)[^\s"<>])*(?<![.,;:!?|)\]}'])""")
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_INT64 = 2**63


class Cell(str):
    """A cell of a CSV file: what it holds is told by the whole column."""

    __slots__ = ()


def carried_value(value: object) -> Value:
    """A value as it is carried; the URLs in it without their signatures, since reports are passed on."""
    match value:
        case bool():
            return value
        case int() if -_INT64 <= value < _INT64:
            return value
        case float() if math.isfinite(value):
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case list() | dict():
            as_json = json.dumps(value, ensure_ascii=False, default=str)
            return _bounded(_JSON_TEXT.sub(lambda found: _json_unsigned(found[0]), as_json))
        case Cell():
            return Cell(_bounded(_unsigned(value)))
    return _bounded(_unsigned(str(value)))


def _json_unsigned(text: str) -> str:
    return json.dumps(_unsigned(json.loads(text)), ensure_ascii=False)


def _unsigned(text: str) -> str:
    return _URL.sub(lambda found: _url_unsigned(found[0]), text)


def _url_unsigned(url: str) -> str:
    try:
        return without_signature(url.replace("\\/", "/"))
    except ValueError:
        return redact(url)


def _bounded(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # half a character (a lone surrogate) cannot be stored
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


class ColumnTypes(dict[str, ColumnType]):
    """The type of each carried column, by what its values were so far."""

    def add(self, values: Mapping[str, Value]) -> None:
        """Take the values of one more row into account.

        Raises:
            ManifestError: there are more columns than a table should have.
        """
        for name, value in values.items():
            own = _type_of(value)
            earlier = self.get(name, own)
            if own != earlier:
                own = "number" if {own, earlier} == {"integer", "number"} else "string"
            self[name] = own
        if len(self) > MAX_COLUMNS:
            some = ",".join(list(self)[:2])
            raise ManifestError(
                f"over {MAX_COLUMNS} columns to carry: name those that you need: carry={some}"
            )

    def typed(self, values: Mapping[str, Any]) -> Values:
        """A row's values, each of its column's type."""
        return {name: _as_type(self[name], value) for name, value in values.items()}


def _type_of(value: Value) -> ColumnType:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case Cell():
            if _INTEGER.fullmatch(value):
                return "integer"
            if _NUMBER.fullmatch(value):
                return "number"
            return "boolean" if value.lower() in ("true", "false") else "string"
    return "string"


def _as_type(type_: ColumnType, value: Any) -> Value:
    match type_:
        case "integer":
            return int(value)
        case "number":
            return float(value)
        case "boolean":
            return value if isinstance(value, bool) else str(value).lower() == "true"
    return value if isinstance(value, str) else json.dumps(value)
