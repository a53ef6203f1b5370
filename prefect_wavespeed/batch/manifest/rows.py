"""One row of a manifest: what it may hold, and why it is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from prefect_wavespeed.api.models import MAX_SEED, SOURCE_SIZE, ReduxParams
from prefect_wavespeed.batch.manifest.carried import Values
from prefect_wavespeed.batch.manifest.columns import KINDS, KNOWN_COLUMNS, Columns
from prefect_wavespeed.batch.manifest.values import as_text, is_empty, is_kind, show, strip
from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.job import Job, Source
from prefect_wavespeed.sources.identify import check_image
from prefect_wavespeed.urls import without_signature
from prefect_wavespeed.words import requirement

_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON can express one, UTF-8 cannot
_PARAMS = frozenset(ReduxParams.model_fields)
_VARIANT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, le=MAX_SEED)])


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
        source: the picture, if it is known without a look at it, as that of a URL is.
    """

    number: int
    image: str
    params: ReduxParams
    id: str | None = None
    variant: int = 0
    carried: Values = field(default_factory=dict)
    source: Source | None = None

    @property
    def safe_image(self) -> str:
        """The image without its signature: safe to show."""
        return self.source.uri if self.source else _without_signature(self.image)

    @property
    def job(self) -> Job | None:
        """Its job, if nothing has to be looked at for it."""
        if not self.source or self.params.size == SOURCE_SIZE:
            return None
        return Job(source=self.source, params=self.params, variant=self.variant)

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
        columns: which column means what.
    """

    params: ReduxParams
    from_text: bool = False
    exact: bool = False
    columns: Columns = KNOWN_COLUMNS

    def read(self, number: int, cells: Mapping[str, Any]) -> Row | BadRow:
        """Check one row. Empty values and null mean "not given"; the image is not looked up."""
        given = {}
        for name, value in cells.items():
            if isinstance(value, str) and not self.exact:
                value = strip(value)
            if not is_empty(value):
                given[name] = value
        known, carried, problem = self.columns.divide(given, from_text=self.from_text)
        try:
            return self._row(number, known, carried, problem)
        except SourceError as error:
            reason = error.message
        except ValidationError as error:
            reason = _reason(error)
        except _RefusedError as error:
            reason = str(error)
        image, row_id = (as_text(known.get(name)) for name in ("image", "id"))
        return BadRow(
            number,
            redact(reason),
            row_id and redact(row_id),
            image and redact(_without_signature(image)),
            carried=carried,
        )

    def _row(self, number: int, given: Mapping[str, Any], carried: Values, problem: str | None) -> Row:
        problems = [problem] if problem else []
        if not self.from_text:
            problems += [
                f"{name} {show(value)}: give {KINDS[name]}"
                for name, value in given.items()
                if not is_kind(KINDS[name], value)
            ]
        if problems:
            raise _RefusedError("; ".join(problems))
        image, row_id = given.get("image", ""), as_text(given.get("id"))
        source = check_image(image)
        if row_id and _LONE_SURROGATE.search(row_id):
            raise _RefusedError(f"id {show(row_id)} contains half a character (a lone surrogate)")
        own = tuple((name, type(value), value) for name, value in given.items() if name in _PARAMS)
        params = _with_own(self.params, own) if own else self.params
        variant = _VARIANT.validate_python(given["variant"]) if "variant" in given else 0
        if variant and params.seed != -1:
            raise _RefusedError(
                f"variant {variant} with seed {params.seed}: a variant has its own seed: give one of the two"
            )
        return Row(number, image, params, row_id, variant, carried, source)


@lru_cache(1_000)  # a million rows have few different ones, and share them
def _with_own(params: ReduxParams, own: tuple[tuple[str, type, Any], ...]) -> ReduxParams:
    """Parameters with a row's own; the types tell 1 from True."""
    return ReduxParams(**{**dict(params), **{name: value for name, _, value in own}})


class _RefusedError(ValueError):
    """What is wrong with a row."""


def _without_signature(image: str) -> str:
    if "://" not in image or image.lower().startswith("s3://"):
        return image
    try:
        return without_signature(image)
    except ValueError:
        return redact(image)


def _reason(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else "variant"
        # for a value of another kind, the column's kind says more than pydantic does
        wrong_kind = problem["type"].endswith(("_parsing", "_type", "_from_float", "_parsing_size"))
        wish = f"give {KINDS[name]}" if wrong_kind else requirement(problem, ReduxParams)
        problems.append(f"{name} {show(problem['input'])}: {wish}")
    return "; ".join(problems)
