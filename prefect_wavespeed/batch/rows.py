"""One row of a manifest: what it may hold, and why it is refused."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from prefect_wavespeed.api.models import MAX_SEED, ReduxParams
from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.sources.identify import check_image
from prefect_wavespeed.urls import without_signature
from prefect_wavespeed.words import requirement

_PARAMS: dict[str, Any] = {name: field.annotation for name, field in ReduxParams.model_fields.items()}
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON can say one, UTF-8 cannot
_VARIANT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, le=MAX_SEED)])

COLUMNS: tuple[str, ...] = ("image", "id", "variant", *_PARAMS)
"""What a manifest may tell of an image."""

Kind = Literal["a whole number", "a number", "true or false", "text", "text or a number"]
_KIND_OF: dict[object, Kind] = {int: "a whole number", float: "a number", bool: "true or false"}
KINDS: dict[str, Kind] = {
    "image": "text",
    "id": "text or a number",
    "variant": "a whole number",
    **{name: _KIND_OF.get(kind, "text") for name, kind in _PARAMS.items()},
}
"""What the values of each column are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image to restyle.

    Attributes:
        number: the row's number, for people.
        image: https URL (which may be signed: a secret), ``s3://bucket/key``, or a local path.
        params: the defaults with what the row itself says.
        id: the user's own name of it.
        variant: another picture of the same source: 0, 1, 2, …
    """

    number: int
    image: str
    params: ReduxParams
    id: str | None = None
    variant: int = 0

    @property
    def shown(self) -> str:
        """The image without its signature: safe to show."""
        return _unsigned(self.image)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        number: the row's number, for people.
        reason: what is wrong and what to do, in one line.
        id: the user's own name of it, where that could be read.
        image: the image, safe to show, where that could be read.
        error: the error's name, where nothing is wrong with the row itself: its picture cannot be used.
    """

    number: int
    reason: str
    id: str | None = None
    image: str | None = None
    error: str | None = None

    @property
    def status(self) -> Literal["failed", "invalid"]:
        """What it counts as, if it is skipped: a missing picture has failed, as one missed later has."""
        return "failed" if self.error else "invalid"


@dataclass(frozen=True, slots=True)
class RowReader:
    """Makes rows of what a file says.

    Attributes:
        params: what holds where a row says nothing.
        from_text: every value is text, as in CSV, and is converted; else it must be of its column's kind.
    """

    params: ReduxParams
    from_text: bool = False

    def read(self, number: int, cells: Mapping[str, Any]) -> Row | BadRow:
        """Check one row. Empty values and null mean "not given"; nothing is looked up."""
        given = {name: value for name, value in cells.items() if not _nothing(value)}
        try:
            return self._row(number, given)
        except SourceError as error:
            reason = error.message
        except ValidationError as error:
            reason = _told(error)
        except _RefusedError as error:
            reason = str(error)
        image, row_id = (_as_text(given.get(name)) for name in ("image", "id"))
        return BadRow(number, redact(reason), row_id and redact(row_id), image and redact(_unsigned(image)))

    def _row(self, number: int, given: Mapping[str, Any]) -> Row:
        wrong = [unknown(name) for name in given if name not in KINDS]
        if not self.from_text:
            wrong += [
                f"{name} {show(value)}: give {KINDS[name]}"
                for name, value in given.items()
                if name in KINDS and not _is(KINDS[name], value)
            ]
        if wrong:
            raise _RefusedError("; ".join(wrong))
        image, row_id = given.get("image", ""), _as_text(given.get("id"))
        check_image(image)
        if row_id and _LONE_SURROGATE.search(row_id):
            raise _RefusedError(f"id {show(row_id)} holds half a character")
        own = {name: value for name, value in given.items() if name in _PARAMS}
        params = ReduxParams(**{**dict(self.params), **own}) if own else self.params
        variant = _VARIANT.validate_python(given.get("variant", 0))
        if variant and params.seed != -1:
            raise _RefusedError(
                f"variant {variant} with seed {params.seed}: a variant chooses its own seed: give one of them"
            )
        return Row(number, image, params, row_id, variant)


class _RefusedError(ValueError):
    """What is wrong with a row."""


def unknown(column: str) -> str:
    """What to say of a column that there is none of."""
    near = difflib.get_close_matches(column.strip().lower(), COLUMNS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COLUMNS)}"
    return f"column {show(column)} is not known: {hint}"


def show(value: object) -> str:
    """A value as it would be typed, short and safe."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    text = redact(text)
    return text if len(text) <= 80 else text[:79] + "…"


def _unsigned(image: str) -> str:
    if "://" not in image or image.lower().startswith("s3://"):
        return image
    try:
        return without_signature(image)
    except ValueError:
        return redact(image)


def _nothing(value: object) -> bool:
    match value:
        case None:
            return True
        case str():
            return not value.strip()
        case float():  # what pandas writes for nothing
            return math.isnan(value)
    return False


def _is(kind: Kind, value: object) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    match kind:
        case "a whole number":  # pandas makes floats of a column of integers with gaps
            return whole or (isinstance(value, float) and value.is_integer())
        case "a number":
            return number
        case "true or false":
            return isinstance(value, bool)
        case "text":
            return isinstance(value, str)
    return number or isinstance(value, str)


def _as_text(value: object) -> str | None:
    match value:
        case str():
            return value
        case float() if value.is_integer():
            return str(int(value))
        case int() | float() if not isinstance(value, bool):
            return str(value)
    return None


def _told(error: ValidationError) -> str:
    wrong = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else "variant"
        # where it is no number, its column's kind says more than pydantic does
        no_kind = problem["type"].endswith(("_parsing", "_type", "_from_float", "_parsing_size"))
        wish = f"give {KINDS[name]}" if no_kind else requirement(problem, ReduxParams)
        wrong.append(f"{name} {show(problem['input'])}: {wish}")
    return "; ".join(wrong)
