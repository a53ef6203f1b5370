"""Wording of messages."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing pydantic takes a while, and the command's help needs only ``counted``
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

# By the types of pydantic's errors, whose own words name Python's types.
_KINDS = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# Characters that act on a terminal or hide in a text: controls (C0 and C1, with ANSI sequences), directions,
# separators of lines, invisible ones, and halves of surrogate pairs. What joins letters and emoji is kept.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text from outside as it may be shown on a terminal, on a page and in a log.

    Args:
        text: what is to be shown.
        keep: characters that are shown as they are.

    Returns:
        The text, its control characters as JSON escapes them (``\u001b``), so that JSON means the same.
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else json.dumps(found[0])[1:-1], text)


# All that Markdown or a renderer that finds links by itself takes for markup.
_MARKUP = re.compile(r"(?i)[\\`*_\[\]<>|!#~&@$]|^[-+=]|(?:(?<=http)|(?<=https)|(?<=ftp)):(?=//)|(?<=\bwww)\.")


def markdown(value: object) -> str:
    """A value as text in a Markdown page or table: nothing in it is a link, an image or any other markup."""
    return _MARKUP.sub(r"\\\g<0>", printable(" ".join(str(value).split())))


def html_table(rows: Mapping[str, object]) -> str:
    """Names and values as an HTML table, escaped."""
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(rows[name]))}</td></tr>" for name in rows)
    return f"<table>{''.join(cells)}</table>"


def requirement(problem: ErrorDetails, model: type[BaseModel] | None = None) -> str:
    """Return what a value that pydantic refused must be, such as ``must be 1 to 4``.

    Args:
        problem: one of a ValidationError's ``errors()``.
        model: the model of the field, if known: for a number out of range its whole range is given.
    """
    name, kind = ".".join(map(str, problem["loc"])), problem["type"]
    if kind in ("greater_than_equal", "less_than_equal"):
        schema = _properties(model).get(name, {}) if model else {}
        if "minimum" in schema and "maximum" in schema:
            return f"must be {schema['minimum']} to {schema['maximum']}"
        (bound,) = problem["ctx"].values()
        return f"must be at {'least' if kind == 'greater_than_equal' else 'most'} {bound}"
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)


@cache  # it takes a millisecond, and every row of a manifest may be wrong
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    return dict(model.model_json_schema()["properties"])
