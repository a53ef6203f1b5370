"""What the model takes: strict in what is sent, because a misspelt field may be billed with defaults.

Fields, defaults and ranges are those of WaveSpeedAI's v3 API for ``wavespeed-ai/flux-redux-dev``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

MODEL = "wavespeed-ai/flux-redux-dev"
DEFAULT_SIZE = "1024*1024"
MAX_SEED = 2_147_483_647

OutputFormat = Literal["jpeg", "png", "webp"]

SHORT_NAMES = {"num_inference_steps": "steps", "guidance_scale": "guidance", "output_format": "format"}
"""Fields of ``ReduxParams`` that people may call by a shorter name."""
NO_PROMPT = f"{MODEL} takes no prompt: it varies the picture that it is given"

SOURCE_SIZE = "source"
"""Stands for a size with the shape of the source; ``sources.sizes`` puts numbers in its place."""
COMMON_SIZES = (
    *("1024*1024", SOURCE_SIZE, "512*512", "1024*768", "768*1024"),
    *("1536*1024", "1024*1536", "1536*864", "864*1536"),
)
"""What Prefect's form offers: squares, the source's shape; 4:3, 3:2 and 16:9, each way."""
TRANSPORT = frozenset({"enable_base64_output", "enable_sync_mode"})
"""How an answer travels. It does not change the picture: requested either way, it is one job."""

_SIZE = re.compile(r"(\d{1,5})\*(\d{1,5})", re.ASCII)


def _as_form(schema: dict[str, Any]) -> None:
    """Give the fields in Prefect's form their order: PostgreSQL does not keep that of keys."""
    schema["description"] = "Size, steps, seed and format of the restyled pictures."
    for position, field in enumerate(schema["properties"].values()):
        field["position"] = position


class ReduxParams(BaseModel):
    """How to restyle a picture: every field of the request but the picture itself.

    Raises:
        pydantic.ValidationError: a field is unknown, of the wrong type or out of its range.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra=_as_form,
    )

    size: str = Field(
        default=DEFAULT_SIZE,
        description="Width and height of the outputs in pixels, as W*H, each 256 to 1536; or source: shaped "
        "like the source, about one megapixel. The default is square, whatever the source's shape.",
        examples=["1024*1024", "512*768", SOURCE_SIZE],
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
        if value == SOURCE_SIZE:
            return value
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError("must be W*H in pixels, for example 1024*1024, or source")
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


class _InForm:
    """How the parameters look in Prefect's form: without those that do not change the picture."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        # The form shows neither, and a run that is given them all the same is not refused.
        for name in TRANSPORT & schema["properties"].keys():
            schema.setdefault("patternProperties", {})[f"^{name}$"] = schema["properties"].pop(name)
        size = schema["properties"]["size"]
        if size.pop("type", None):
            common = {"title": "Common sizes", "type": "string", "enum": list(COMMON_SIZES)}
            size["anyOf"] = [common, {"title": "Another size", "type": "string"}]
        return reference


FormParams = Annotated[ReduxParams, _InForm()]
"""`ReduxParams` as a parameter of flows."""


class ReduxRequest(ReduxParams):
    """A whole request, as it is POSTed."""

    model_config = ConfigDict(json_schema_extra=None)

    size: str = Field(
        default=DEFAULT_SIZE,
        description="Width and height of the outputs in pixels, as W*H, each 256 to 1536.",
        examples=["1024*1024", "512*768"],
    )
    image: str = Field(min_length=1, description="URL of the picture to vary.")

    @field_validator("size")
    @classmethod
    def _size_in_numbers(cls, value: str) -> str:
        if value == SOURCE_SIZE:
            raise ValueError("must be W*H in pixels")
        return value
