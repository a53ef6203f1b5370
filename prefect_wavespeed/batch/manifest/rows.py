"""One row of a manifest: what it may hold, and why it is refused."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from prefect_wavespeed.api.models import MAX_SEED, ReduxParams
from prefect_wavespeed.batch.manifest.carried import Values
from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.sources.identify import check_image
from prefect_wavespeed.urls import without_signature
from prefect_wavespeed.words import requirement

_PARAMS: dict[str, Any] = {name: field.annotation for name, field in ReduxParams.model_fields.items()}
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON can express one, UTF-8 cannot
_VARIANT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, le=MAX_SEED)])
_SHOWN_LENGTH = 80

COLUMNS: tuple[str, ...] = ("image", "id", "variant", *_PARAMS)
"""What a manifest may say about an image."""
THE_COLUMNS = f"the columns are {', '.join(COLUMNS)}"

# What is copied from a document or a file browser brings them along: zero width, direction, byte order.
_INVISIBLE = "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"
_NAMELESS = re.compile(r"|Unnamed: \d+")  # pandas calls a column so that had no name

Kind = Literal["a whole number", "a number", "true or false", "text", "text or a number"]
_KIND_OF_TYPE: dict[object, Kind] = {int: "a whole number", float: "a number", bool: "true or false"}
KINDS: dict[str, Kind] = {
    "image": "text",
    "id": "text or a number",
    "variant": "a whole number",
    **{name: _KIND_OF_TYPE.get(type_, "text") for name, type_ in _PARAMS.items()},
}
"""What each column holds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image to restyle.

    Attributes:
        number: number of the row, for messages.
        image: https URL (which may be signed: a secret), ``s3://bucket/key``, or a local path.
        params: the batch's parameters, overridden by those of the row.
        id: the user's own name for it.
        variant: another picture of the same source: 0, 1, 2, …
        carried: what the report carries of the manifest's own columns.
    """

    number: int
    image: str
    params: ReduxParams
    id: str | None = None
    variant: int = 0
    carried: Values = field(default_factory=dict)

    @property
    def safe_image(self) -> str:
        """The image without its signature: safe to show."""
        return _without_signature(self.image)

    def refused(self, reason: str, error_type: str | None = None) -> BadRow:
        """The same row as one that cannot be used, because of its image if there is a type of error."""
        return BadRow(self.number, reason, self.id, self.safe_image, error_type, self.carried)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        number: number of the row, for messages.
        reason: what is wrong and what to do, in one line.
        id: the user's own name for it, if it could be read.
        image: the image, safe to show, if it could be read.
        error_type: class of the error if the row itself is valid but its image cannot be used.
        carried: what the report carries of the manifest's own columns.
    """

    number: int
    reason: str
    id: str | None = None
    image: str | None = None
    error_type: str | None = None
    carried: Values = field(default_factory=dict)

    @property
    def status(self) -> Literal["failed", "invalid"]:
        """Its status in the report if it is skipped; an image that is missing counts as failed."""
        return "failed" if self.error_type else "invalid"


@dataclass(frozen=True, slots=True)
class RowReader:
    """Turns what a file holds into rows.

    Attributes:
        params: what applies where a row does not say otherwise.
        from_text: all values are text, as in CSV, and are converted; else each must be of its column's kind.
        exact: a text is taken as it is, as the key of an object in a listing; else without blanks around it.
    """

    params: ReduxParams
    from_text: bool = False
    exact: bool = False

    def read(self, number: int, cells: Mapping[str, Any]) -> Row | BadRow:
        """Check one row. Empty values and null mean "not given"; the image is not looked up."""
        if not self.exact:
            cells = {
                strip(name): strip(value) if isinstance(value, str) else value
                for name, value in cells.items()
                if not is_nameless(strip(name))
            }
        given = {name: value for name, value in cells.items() if not _is_empty(value)}
        try:
            return self._row(number, given)
        except SourceError as error:
            reason = error.message
        except ValidationError as error:
            reason = _reason(error)
        except _RefusedError as error:
            reason = str(error)
        image, row_id = (_as_text(given.get(name)) for name in ("image", "id"))
        return BadRow(
            number, redact(reason), row_id and redact(row_id), image and redact(_without_signature(image))
        )

    def _row(self, number: int, given: Mapping[str, Any]) -> Row:
        unknown = [name for name in given if name not in KINDS]
        problems = [unknown_columns(unknown)] if unknown else []
        if not self.from_text:
            problems += [
                f"{name} {show(value)}: give {KINDS[name]}"
                for name, value in given.items()
                if name in KINDS and not _is_kind(KINDS[name], value)
            ]
        if problems:
            raise _RefusedError("; ".join(problems))
        image, row_id = given.get("image", ""), _as_text(given.get("id"))
        check_image(image)
        if row_id and _LONE_SURROGATE.search(row_id):
            raise _RefusedError(f"id {show(row_id)} contains half a character (a lone surrogate)")
        own = {name: value for name, value in given.items() if name in _PARAMS}
        params = ReduxParams(**{**dict(self.params), **own}) if own else self.params
        variant = _VARIANT.validate_python(given.get("variant", 0))
        if variant and params.seed != -1:
            raise _RefusedError(
                f"variant {variant} with seed {params.seed}: a variant has its own seed: give one of the two"
            )
        return Row(number, image, params, row_id, variant)


class _RefusedError(ValueError):
    """What is wrong with a row."""


def unknown_columns(names: Sequence[str]) -> str:
    """The reason for refusing columns that do not exist. Misspelt, one would be billed with a default."""
    similar = {name: difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1) for name in names}
    if len(names) == 1 and similar[names[0]]:
        return f"{_UNKNOWN} {show(names[0])}: did you mean {similar[names[0]][0]!r}?"
    shown = ", ".join(f"{show(name)}{f' ({found[0]}?)' if found else ''}" for name, found in similar.items())
    plural, them = ("", "it") if len(names) == 1 else ("s", "them")
    return f"{_UNKNOWN}{plural} {shown}: remove or rename {them}"


_UNKNOWN = "unknown column"


def say_columns(reasons: Iterable[str]) -> str:
    """The known columns, where one of the reasons is a column that is not known; else nothing."""
    return f"; {THE_COLUMNS}" if any(_UNKNOWN in reason for reason in reasons) else ""


def is_nameless(name: str) -> bool:
    """Whether a column has no name: an index, or what is left of an empty column of a spreadsheet."""
    return _NAMELESS.fullmatch(name) is not None


def strip(text: str) -> str:
    """A text without blanks around it, no-break and invisible ones included."""
    before = None
    while text != before:  # either kind may hide the other
        before, text = text, text.strip().strip(_INVISIBLE)
    return text


def show(value: object) -> str:
    """A value as it would be typed, short and safe."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    text = redact(text)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"


def _without_signature(image: str) -> str:
    if "://" not in image or image.lower().startswith("s3://"):
        return image
    try:
        return without_signature(image)
    except ValueError:
        return redact(image)


def _is_empty(value: object) -> bool:
    match value:
        case None:
            return True
        case str():
            return not value.strip()
        case float():  # pandas writes missing values as NaN
            return math.isnan(value)
    return False


def _is_kind(kind: Kind, value: object) -> bool:
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


def _as_text(value: object) -> str | None:
    match value:
        case str():
            return value
        case float() if value.is_integer():
            return str(int(value))
        case int() | float() if not isinstance(value, bool):
            return str(value)
    return None


def _reason(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else "variant"
        # for a value of another kind, the column's kind says more than pydantic does
        wrong_kind = problem["type"].endswith(("_parsing", "_type", "_from_float", "_parsing_size"))
        wish = f"give {KINDS[name]}" if wrong_kind else requirement(problem, ReduxParams)
        problems.append(f"{name} {show(problem['input'])}: {wish}")
    return "; ".join(problems)
