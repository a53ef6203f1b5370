"""Predictions as the API and its webhooks report them: lenient in what is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from prefect_wavespeed.api._lenient import Items, Moment
from prefect_wavespeed.api.base64_stream import decode
from prefect_wavespeed.errors import redact

Status = Literal["created", "processing", "completed", "failed", "cancelled", "timeout", "deleted"]
ENDED_BADLY: frozenset[str] = frozenset({"failed", "cancelled", "timeout", "deleted"})
TERMINAL: frozenset[str] = ENDED_BADLY | {"completed"}


class PredictionUrls(BaseModel):
    """Where a prediction's result can be fetched."""

    model_config = ConfigDict(extra="ignore")
    get: str | None = None


class Timings(BaseModel):
    """How long a prediction took."""

    model_config = ConfigDict(extra="ignore")
    inference: float | None = None


class Prediction(BaseModel):
    """One prediction as the submit, result and history calls and the webhook report it.

    Optional fields may be null, missing or malformed, and unknown ones are dropped; a status that the
    vendor's documentation does not list is kept and means "not finished yet".
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True, coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    model: str = ""
    outputs: list[str] = Field(default_factory=list, repr=False)
    urls: PredictionUrls = Field(default_factory=PredictionUrls)
    has_nsfw_contents: list[bool] = Field(default_factory=list)
    status: Status | str = "created"
    created_at: Moment = None
    error: str = ""
    code: int = 0
    timings: Timings = Field(default_factory=Timings)
    execution_time: float | None = Field(
        default=None, validation_alias=AliasChoices("executionTime", "execution_time")
    )
    input: dict[str, Any] | None = Field(default=None, validation_alias=AliasChoices("input", "inputs"))

    # Base64 outputs, decoded while they were received; outputs[i] is then "inline:i".
    _inline: dict[str, bytes] = PrivateAttr(default_factory=dict)

    @field_validator("outputs", "has_nsfw_contents", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return []
        if isinstance(value, list):
            blank: Any = "" if info.field_name == "outputs" else False
            return [blank if item is None else item for item in value]
        return value

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
        try:
            return read(value)
        except ValidationError:
            return cls.model_fields[info.field_name or ""].get_default(call_default_factory=True)

    @model_validator(mode="after")
    def _take_from_answer(self, info: ValidationInfo) -> Prediction:
        """Move base64 outputs of a received answer out of ``outputs``; make its error safe to show."""
        if info.context is not None:
            self.error = info.context.get("redact", redact)(self.error)
            pictures: Mapping[str, bytes] = info.context.get("pictures", {})
            for index, output in enumerate(self.outputs):
                if (picture := pictures.get(output) or decode(output)) is not None:
                    self.outputs[index] = f"inline:{index}"
                    self._inline[f"inline:{index}"] = picture
        return self

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


class HistoryPage(BaseModel):
    """One page of the prediction history, newest first (kept for 7 days)."""

    model_config = ConfigDict(extra="ignore")
    page: int = 1
    items: Items[Prediction]  # required: an answer without it must not pass for an empty history
