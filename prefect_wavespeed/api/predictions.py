"""Predictions as the API and its webhooks report them: lenient in what is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from prefect_wavespeed.api._shown import showable
from prefect_wavespeed.api.base64_stream import decode
from prefect_wavespeed.errors import redact
from prefect_wavespeed.process_local import ProcessLocal

Status = Literal["created", "processing", "completed", "failed", "cancelled", "timeout", "deleted"]
ENDED_BADLY: frozenset[str] = frozenset({"failed", "cancelled", "timeout", "deleted"})
TERMINAL: frozenset[str] = ENDED_BADLY | {"completed"}
ID = r"^[A-Za-z0-9][A-Za-z0-9._:~=@+-]{0,127}$"
"""What an id may be: it becomes part of URLs, object keys and headers. An answer with another is not read."""
STATUSES: frozenset[str] = TERMINAL | {"created", "processing"}


_T = TypeVar("_T")

_SHOWN = 200  # characters of an item without an id
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


def read_or_default(
    model: type[BaseModel], value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> Any:
    """A field's value, or the field's default where it cannot be read: for wrap validators of fields."""
    try:
        return read(value)
    except ValidationError:
        return model.model_fields[info.field_name or ""].get_default(call_default_factory=True)


class PredictionUrls(BaseModel):
    """Where a prediction's result can be fetched."""

    model_config = ConfigDict(extra="ignore")
    get: str | None = None


class Timings(BaseModel):
    """How long a prediction took."""

    model_config = ConfigDict(extra="ignore")
    inference: FiniteFloat | None = None


class Prediction(BaseModel):
    """One prediction as the submit, result and history calls and the webhook report it.

    Optional fields may be null, missing or malformed, and unknown ones are dropped; a status that the
    vendor's documentation does not list is kept and means "not finished yet".
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True, coerce_numbers_to_str=True)

    id: str = Field(pattern=ID, description="Safe in a URL, in a key and in a header.")
    model: str = ""
    outputs: list[str] = Field(default_factory=list, repr=False, description='"" for what is no output.')
    urls: PredictionUrls = Field(default_factory=PredictionUrls)
    has_nsfw_contents: bool | list[bool | None] | None = None
    status: Status | str = "created"
    created_at: Moment = None
    error: str = ""
    code: int = Field(default=0, ge=-(2**63), lt=2**63)
    timings: Timings = Field(default_factory=Timings)
    execution_time: FiniteFloat | None = Field(
        default=None, validation_alias=AliasChoices("executionTime", "execution_time")
    )
    input: dict[str, Any] | None = Field(default=None, validation_alias=AliasChoices("input", "inputs"))

    # Base64 outputs, decoded while they were received; outputs[i] is then "inline:i".
    _inline: dict[str, bytes] = PrivateAttr(default_factory=dict)
    _answer: dict[str, Any] = PrivateAttr(default_factory=dict)
    _show: ProcessLocal[Callable[[], dict[str, Any]]] = PrivateAttr(default_factory=ProcessLocal)
    _unreadable: bool = PrivateAttr(default=False)

    @field_validator("outputs", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if not value:
            return []
        return [_as_text(item) or "" for item in (value if isinstance(value, list) else [value])]

    @field_validator("has_nsfw_contents", mode="before")
    @classmethod
    def _odd_flags_keep_their_place(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [item if isinstance(item, bool) else None for item in value]
        return value if isinstance(value, bool) else None

    @field_validator("urls", "timings", mode="before")
    @classmethod
    def _null_is_unknown(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("model", "error", mode="before")
    @classmethod
    def _null_is_blank(cls, value: Any) -> Any:
        return "" if value is None else value if isinstance(value, str) else str(value)

    @field_validator("code", mode="before")
    @classmethod
    def _lenient_code(cls, value: Any) -> Any:
        if value is None or value == "":
            return 0
        return int(value) if isinstance(value, str) and value.strip().isdigit() else value

    @field_validator(
        "outputs",
        "urls",
        "has_nsfw_contents",
        "status",
        "created_at",
        "code",
        "timings",
        "execution_time",
        "input",
        mode="wrap",
    )
    @classmethod
    def _odd_is_missing(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """A malformed optional field must not cost us the id of a prediction that is billed."""
        return read_or_default(cls, value, read, info)

    @model_validator(mode="wrap")
    @classmethod
    def _take_from_answer(
        cls, value: Any, read: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        """Move base64 outputs of a received answer out of ``outputs``; make what it says safe to show."""
        prediction = read(value)
        if info.context is not None and isinstance(value, Mapping):
            make_safe = info.context.get("redact", redact)
            prediction.error = make_safe(prediction.error)
            pictures = dict(info.context.get("pictures", {}))
            for index, output in enumerate(prediction.outputs):
                if (picture := pictures.get(output) or decode(output)) is not None:
                    pictures[output] = prediction._inline[f"inline:{index}"] = picture
                    prediction.outputs[index] = f"inline:{index}"
            show = partial(showable, value, make_safe, pictures)
            if prediction.terminal:
                prediction._answer = show()
            else:  # nobody looks at most answers to a poll
                prediction._show = ProcessLocal(show)
            prediction._unreadable = _holds_unreadable(value.get("outputs"))
        return prediction

    @property
    def answer(self) -> dict[str, Any]:
        """The object as the API sent it, unknown fields included; safe to keep, and bounded in size.

        URLs lose their queries, pictures are replaced by a short mark. Empty for what was not received.
        """
        if self._show.value:
            self._answer, self._show = self._show.value(), ProcessLocal()
        return self._answer

    def with_answer(self, answer: Mapping[str, Any]) -> Prediction:
        """Return this prediction, with what ``answer`` was before it was written down."""
        self._answer, self._show = dict(answer), ProcessLocal()
        return self

    @property
    def unreadable_outputs(self) -> str | None:
        """What the API sent as outputs, in one line, where it holds something that is none; else None."""
        return redact(json.dumps(self.answer.get("outputs"))) if self._unreadable else None

    def flag(self, index: int) -> bool | None:
        """Whether the output at an index was flagged as NSFW; None where it was not checked."""
        flags = self.has_nsfw_contents
        if isinstance(flags, list):
            return flags[index] if index < len(flags) else None
        return flags

    def inline(self, output: str) -> bytes | None:
        """Return the picture of a base64 output; None for a URL."""
        return self._inline.get(output)

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL

    @property
    def inference_ms(self) -> float | None:
        """How long the model worked on it, in milliseconds; None where the API does not say."""
        return self.timings.inference if self.timings.inference is not None else self.execution_time


def _as_text(output: Any) -> str | None:
    """An output: a text, or an object with its URL; None for anything else."""
    if isinstance(output, Mapping):
        output = output.get("url")
    return output if isinstance(output, str) else None


def _holds_unreadable(outputs: Any) -> bool:
    items = outputs if isinstance(outputs, list) else [outputs or None]
    return any(item is not None and _as_text(item) is None for item in items)


class Unnamed(Prediction):
    """An item of the history that has no id, or none that can be used. It may be a lost submission."""

    id: str = Field(description="What the item says, for people.")


def _or_unnamed(value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Prediction:
    try:
        prediction: Prediction = read(value)
        return prediction
    except ValidationError:
        make_safe = (info.context or {}).get("redact", redact)
        shown = json.dumps(showable({"item": value}, make_safe, {})["item"])
        said = value if isinstance(value, Mapping) else {}
        return Unnamed.model_validate({**said, "id": f"an item without an id: {shown[:_SHOWN]}"})


class HistoryPage(BaseModel):
    """One page of the prediction history, newest first (kept for 7 days)."""

    model_config = ConfigDict(extra="ignore")
    page: int = 1
    has_more: bool | None = None
    # Required: an answer without it must not pass for an empty history.
    items: Items[Annotated[Prediction, WrapValidator(_or_unnamed)]]

    @field_validator("has_more", mode="wrap")
    @classmethod
    def _odd_is_unknown(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        return read_or_default(cls, value, read, info)

    @property
    def is_last(self) -> bool:
        """Whether the API says that there is no other page."""
        return self.has_more is False
