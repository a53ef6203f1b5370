"""The options of a batch, spelled once.

The flow takes them as one parameter, deployments set them, the command ``restyle batch`` makes its flags of
the fields, and every shard gets them from the run that started it.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_wavespeed.api.models import FormParams, ReduxParams
from prefect_wavespeed.batch.manifest.columns import Columns
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, UncheckedPolicy, picture_params


def _for_form(schema: dict[str, Any]) -> None:
    """Name and number the fields for Prefect's form: its database does not keep the order of keys."""
    schema["description"] = "How to restyle, what it may cost, and when the batch counts as failed."
    for position, (name, field) in enumerate(schema["properties"].items()):
        field |= {"title": name, "position": position}


class BatchOptions(BaseModel):
    """How a batch is carried out.

    Raises:
        pydantic.ValidationError: a field is unknown, of the wrong type or out of its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_for_form)

    params: FormParams = Field(
        default=ReduxParams(), description="How to restyle, where a row does not say otherwise."
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="Maximum predictions in flight, within what the WaveSpeed block allows.",
    )
    max_cost_usd: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Spending cap in USD; none by default. A batch whose quote is higher is refused; if "
        "prices rise or attempts are repeated, submitting stops before the cap is exceeded.",
    )
    max_failed: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the rows that may fail before the batch counts as failed, 0 to 1. A skipped "
        "row counts if its image cannot be used, but not if the row itself is invalid. What an earlier run "
        "gave up does not count.",
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        default="fail",
        description="Refuse the whole manifest for a row that cannot be used, or skip the row.",
    )
    nsfw: NsfwPolicy = Field(
        default="keep",
        description="What to do with pictures that WaveSpeedAI flags as unsafe for work: keep them (flagged "
        "in the record), put them under quarantine/, or drop them (recorded, not stored).",
    )
    nsfw_unchecked: UncheckedPolicy = Field(
        default="quarantine",
        description="What to do with pictures of which WaveSpeedAI does not say whether they are safe: put "
        "them under quarantine/, or keep them. If nsfw is keep, they are kept.",
    )
    columns: str = Field(
        default="",
        description="The manifest's own names for known columns, such as image=image_url,id=sku.",
    )
    carry: str = Field(
        default="",
        description="Columns of your own to take into the report and the gallery, such as sku,category; * "
        "for all. They never change a picture.",
    )
    ignore_columns: str = Field(
        default="", description="Columns of your own to leave out, such as notes,colour."
    )
    allow_local: bool = Field(
        default=False,
        description="Let a manifest from S3 or the web name files of the machine that runs the batch: "
        "whoever may write the manifest can then have them uploaded.",
    )
    retry_failed: bool = Field(
        default=False, description="Also submit jobs that have failed for good before. That may be billed."
    )
    wait: bool = Field(
        default=True,
        description="Wait for the pictures. Otherwise the batch ends once everything is submitted, and "
        "settle stores the pictures later.",
    )

    @field_validator("columns")
    @classmethod
    def _columns_are_pairs(cls, value: str) -> str:
        Columns.of(value)
        return value

    @property
    def manifest_columns(self) -> Columns:
        """Which column of the manifest means what."""
        return Columns.of(self.columns, self.carry, self.ignore_columns)

    @property
    def nsfw_rules(self) -> NsfwRules:
        """What becomes of flagged and unchecked pictures."""
        return NsfwRules(flagged=self.nsfw, unchecked=self.nsfw_unchecked)

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the pictures of a manifest, and which of them are stored where."""
        names = ("nsfw", "nsfw_unchecked", "columns", "ignore_columns")
        deciding = {"params": picture_params(self.params), **{name: getattr(self, name) for name in names}}
        return sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
