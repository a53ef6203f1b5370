"""What is sent to the model and what comes back: strict in what we send, lenient in what we read.

Fields, defaults and ranges are those of WaveSpeedAI's v3 API for ``wavespeed-ai/flux-redux-dev``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

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

from prefect_wavespeed.api.base64_stream import decode
from prefect_wavespeed.errors import redact

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MODEL = "wavespeed-ai/flux-redux-dev"
MAX_SEED = 2_147_483_647

OutputFormat = Literal["jpeg", "png", "webp"]

_SIZE = re.compile(r"(\d{1,5})\*(\d{1,5})", re.ASCII)
_LONG_FRACTION = re.compile(r"(\.\d{6})\d+")


def _as_form(schema: dict[str, Any]) -> None:
    """What Prefect's form shows, in which order: PostgreSQL does not keep that of keys."""
    schema["description"] = "Size, steps, seed and format of the restyled pictures."
    for position, field in enumerate(schema["properties"].values()):
        field["position"] = position


class ReduxParams(BaseModel):
    """How a picture is to be restyled: every field of the request but the picture itself.

    Raises:
        pydantic.ValidationError: a field is unknown, of the wrong type or out of its range.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra=_as_form,
    )

    size: str = Field(
        default="1024*1024",
        description="Width and height of the outputs in pixels, as W*H, each 256 to 1536.",
        examples=["1024*1024", "512*768"],
    )
    num_inference_steps: int = Field(
        default=28, ge=1, le=50, description="Denoising steps, 1 to 50: more is finer and slower."
    )
    guidance_scale: float = Field(
        default=3.5, ge=1, le=20, description="How closely the outputs follow the source picture, 1 to 20."
    )
    num_images: int = Field(default=1, ge=1, le=4, description="Variations in one prediction, 1 to 4.")
    seed: int = Field(
        default=-1,
        ge=-1,
        le=MAX_SEED,
        description="Seed of the noise, 0 to 2147483647; -1 derives one from the job, the same each time.",
    )
    output_format: OutputFormat = Field(default="jpeg", description="File format of the outputs.")
    enable_base64_output: bool = Field(
        default=False, description="Receive the outputs inline instead of by URL. The pictures are the same."
    )
    enable_sync_mode: bool = Field(
        default=False, description="Let the submission wait for the picture. The pictures are the same."
    )

    @field_validator("size")
    @classmethod
    def _size_in_range(cls, value: str) -> str:
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError("must be W*H in pixels, for example 1024*1024")
        width, height = int(match[1]), int(match[2])
        if not (256 <= width <= 1536 and 256 <= height <= 1536):
            raise ValueError("width and height must each be from 256 to 1536 pixels")
        return f"{width}*{height}"

    @property
    def width(self) -> int:
        """Width of the outputs in pixels."""
        return int(self.size.split("*")[0])

    @property
    def height(self) -> int:
        """Height of the outputs in pixels."""
        return int(self.size.split("*")[1])


def wanted(problem: ErrorDetails) -> str:
    """What a value must be that was refused, in words for whoever gave it; of a parameter its whole range."""
    name, kind = ".".join(map(str, problem["loc"])), problem["type"]
    if kind in ("greater_than_equal", "less_than_equal"):
        if known := _parameters().get(name):
            return f"must be {known['minimum']} to {known['maximum']}"
        (bound,) = problem["ctx"].values()
        return f"must be at {'least' if kind == 'greater_than_equal' else 'most'} {bound}"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)


@cache  # it takes a millisecond, and every row of a manifest may be wrong
def _parameters() -> dict[str, Any]:
    return dict(ReduxParams.model_json_schema()["properties"])


class ReduxRequest(ReduxParams):
    """A whole request, as it is POSTed."""

    model_config = ConfigDict(json_schema_extra=None)

    image: str = Field(min_length=1, description="URL of the picture to vary.")


Status = Literal["created", "processing", "completed", "failed", "cancelled", "timeout", "deleted"]
ENDED_BADLY: frozenset[str] = frozenset({"failed", "cancelled", "timeout", "deleted"})
TERMINAL: frozenset[str] = ENDED_BADLY | {"completed"}


class PredictionUrls(BaseModel):
    """Where the API says that more can be learnt of a prediction."""

    model_config = ConfigDict(extra="ignore")
    get: str | None = None


class Timings(BaseModel):
    """How long a prediction took."""

    model_config = ConfigDict(extra="ignore")
    inference: float | None = None


class Prediction(BaseModel):
    """One prediction as the submit, result and history calls and the webhook tell it.

    Anything optional may be null, missing or odd, and unknown fields are left out; a status that the
    documentation does not name is kept as it is and means "not finished yet".
    """

    model_config = ConfigDict(extra="ignore", populate_by_name=True, coerce_numbers_to_str=True)

    id: str = Field(min_length=1)
    model: str = ""
    outputs: list[str] = Field(default_factory=list, repr=False)
    urls: PredictionUrls = Field(default_factory=PredictionUrls)
    has_nsfw_contents: list[bool] = Field(default_factory=list)
    status: Status | str = "created"
    created_at: datetime | None = None
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
            nothing: Any = "" if info.field_name == "outputs" else False
            return [nothing if item is None else item for item in value]
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

    @field_validator("created_at", mode="before")
    @classmethod
    def _nanoseconds(cls, value: Any) -> Any:
        if not value:
            return None
        return _LONG_FRACTION.sub(r"\1", value) if isinstance(value, str) else value

    @field_validator("created_at", mode="after")
    @classmethod
    def _utc_unless_told(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

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
        """Nothing odd in an optional field may cost us the id of a prediction that is billed."""
        try:
            return read(value)
        except ValidationError:
            return cls.model_fields[info.field_name or ""].get_default(call_default_factory=True)

    @model_validator(mode="after")
    def _take_from_answer(self, info: ValidationInfo) -> Prediction:
        """Move base64 outputs of an answer just received out of ``outputs``; make its error safe to show."""
        if info.context is not None:
            self.error = redact(self.error, info.context.get("secret", ""))
            pictures: Mapping[str, bytes] = info.context.get("pictures", {})
            for index, output in enumerate(self.outputs):
                if (picture := pictures.get(output) or decode(output)) is not None:
                    self.outputs[index] = f"inline:{index}"
                    self._inline[f"inline:{index}"] = picture
        return self

    def inline(self, output: str) -> bytes | None:
        """The picture of a base64 output; None for a URL."""
        return self._inline.get(output)

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TERMINAL

    @property
    def inference_ms(self) -> float | None:
        """How long the model worked on it, in milliseconds; None when the API does not say."""
        return self.timings.inference if self.timings.inference is not None else self.execution_time


class HistoryPage(BaseModel):
    """One page of the prediction history, newest first (kept for 7 days)."""

    model_config = ConfigDict(extra="ignore")
    page: int = 1
    items: list[Prediction]  # required: an answer without it must not pass for an empty history

    @field_validator("items", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return [] if value is None else value


class Quote(BaseModel):
    """What the price call says that a request would cost."""

    usd: float = Field(ge=0, description="Price of the whole request in USD, discounts included.")
    currency: str = "USD"


class BilledPrediction(BaseModel):
    """The prediction that a billing record is about."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    uuid: str = ""
    model_uuid: str = ""
    status: str = ""

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_blank(cls, value: Any) -> Any:
        return "" if value is None else value


class Billing(BaseModel):
    """One record of what the account was charged or given back.

    Fields as the vendor's page "Check Billings" tells them; of the billing types it names ``deduct`` only.
    """

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    uuid: str = ""
    billing_type: str = "deduct"
    price: float | None = Field(default=None, allow_inf_nan=False, description="USD; None when not told.")
    created_at: datetime | None = None
    prediction: BilledPrediction = Field(default_factory=BilledPrediction)

    @field_validator("uuid", "billing_type", mode="before")
    @classmethod
    def _null_is_blank(cls, value: Any) -> Any:
        return "" if value is None else value

    @field_validator("prediction", mode="before")
    @classmethod
    def _null_is_none_of_ours(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("created_at", mode="before")
    @classmethod
    def _nanoseconds(cls, value: Any) -> Any:
        return _LONG_FRACTION.sub(r"\1", value) if isinstance(value, str) else value

    @field_validator("created_at", mode="after")
    @classmethod
    def _utc_unless_told(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @field_validator("price", "created_at", mode="wrap")
    @classmethod
    def _odd_is_not_told(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(value)
        except ValidationError:
            return None

    @property
    def usd(self) -> float | None:
        """What the account paid, in USD: below 0 for what it was given back; None when not told."""
        if self.price is not None and "refund" in self.billing_type.lower():
            return -abs(self.price)
        return self.price


class BillingsPage(BaseModel):
    """One page of the billing records."""

    model_config = ConfigDict(extra="ignore")
    page: int = 1
    items: list[Billing]  # required: an answer without it must not pass for an account without costs

    @field_validator("items", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return [] if value is None else value
