"""A job: its key, its seed, its names; the run that works on it, and what it returns."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from prefect_wavespeed.api.models import (
    MAX_SEED,
    MODEL,
    SOURCE_SIZE,
    TRANSPORT,
    ReduxParams,
    ReduxRequest,
)
from prefect_wavespeed.process_local import ProcessLocal
from prefect_wavespeed.urls import without_signature
from prefect_wavespeed.words import html_table

NsfwPolicy = Literal["keep", "quarantine", "drop"]
UncheckedPolicy = Literal["quarantine", "keep"]
WarningCode = Literal[
    "missing_outputs", "extra_outputs", "size_differs", "format_differs", "not_checked", "blank", "unusual"
]

_NOT_SLUG = re.compile(r"[^a-z0-9]+")


def picture_params(params: ReduxParams) -> dict[str, Any]:
    """The parameters that decide what the picture looks like."""
    return params.model_dump(include=set(ReduxParams.model_fields) - TRANSPORT)


@lru_cache(1_000)  # a million rows of a batch have few different ones
def _beginning(params: ReduxParams) -> str:
    """What the canonical JSON of a request has before its source, sorted, and no blanks."""
    shared = {"model": MODEL, "params": picture_params(params)}
    return f'{json.dumps(shared, sort_keys=True, separators=(",", ":"))[:-1]},"source":'


def seed_sent(seed: int, key: str) -> int:
    """The seed of a request: the explicit one, else one derived from the job's key."""
    return seed if seed != -1 else int(key[:16], 16) % (MAX_SEED + 1)


def slug(name: str) -> str:
    """A file name as a readable part of an object's key: ``Été 2024.JPG`` gives ``ete-2024``."""
    last = name.rstrip("/").rpartition("/")[2]
    dot = last.rfind(".")
    stem = last[:dot] if 0 < dot < len(last) - 1 else last
    ascii_stem = (
        stem if stem.isascii() else unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    )
    return _NOT_SLUG.sub("-", ascii_stem.lower()).strip("-")[:40].rstrip("-") or "image"


class Source(BaseModel):
    """A source picture.

    Attributes:
        uri: its address as it is shown and stored, without signature and credentials.
        identity: what tells it from every other picture; part of the job key.
        name: its file name.
        location: where to read it. It may carry a signature, so it is never shown or stored.
        sha256: of its bytes, where they were read.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    identity: str
    name: str
    location: str = Field(repr=False)
    sha256: str | None = None


class Job(BaseModel):
    """One request to the model: a source, parameters and a variant.

    Raises:
        pydantic.ValidationError: an explicit seed together with a variant other than 0, or a size that is
            not in numbers.
    """

    model_config = ConfigDict(frozen=True)

    source: Source
    params: ReduxParams = ReduxParams()
    variant: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _seed_or_variant(self) -> Job:
        if self.params.size == SOURCE_SIZE:
            raise ValueError(
                "a job's size is in numbers: make it with prefect_wavespeed.steps.run_job.make_job"
            )
        if self.variant and self.params.seed != -1:
            raise ValueError(
                "a variant other than 0 chooses its own seed: give either variant or seed, not both"
            )
        return self

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the request: two jobs with one key are one job."""
        canonical = f'{_beginning(self.params)}{json.dumps(self.source.identity)},"variant":{self.variant}}}'
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def seed(self) -> int:
        """The seed to send: the explicit one, else one derived from the key."""
        return seed_sent(self.params.seed, self.key)

    @cached_property
    def name(self) -> str:
        """Name of the job's folder below ``images/``."""
        return f"{slug(self.source.name)}-{self.key[:16]}"

    @property
    def without_secrets(self) -> Job:
        """The job as it may be written down: the source's URL without its signature."""
        location = self.source.location
        if not location.lower().startswith(("https://", "http://")):
            return self
        return self.model_copy(
            update={"source": self.source.model_copy(update={"location": without_signature(location)})}
        )

    @property
    def label(self) -> str:
        """Short name, for logs and run names."""
        return f"{slug(self.source.name)}-{self.key[:4]}"

    def request(self, image_url: str) -> ReduxRequest:
        """The request to send, with its real seed."""
        return ReduxRequest(**self.params.model_dump(exclude={"seed"}), seed=self.seed, image=image_url)


class RunInfo(BaseModel):
    """The run that made a file."""

    flow: str | None = None
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    deployment: str | None = None
    task_run_ids: list[str] = Field(default_factory=list)
    prefect_version: str | None = None
    package_version: str
    git_commit: str | None = None


class NsfwRules(BaseModel):
    """What becomes of outputs that WaveSpeedAI flags, and of those that it says nothing about.

    Attributes:
        flagged: keep them, put them under ``quarantine/``, or drop them.
        unchecked: put them under ``quarantine/`` or keep them. Where flagged ones are kept, so are these.
    """

    model_config = ConfigDict(frozen=True)

    flagged: NsfwPolicy = "keep"
    unchecked: UncheckedPolicy = "quarantine"

    def applied_to(self, flag: bool | None) -> NsfwPolicy:
        """What becomes of an output.

        Args:
            flag: whether it is flagged; None where that was not checked.
        """
        if flag is False or self.flagged == "keep":
            return "keep"
        return self.flagged if flag else self.unchecked


class OutputWarning(BaseModel):
    """What is wrong with outputs that are paid for and stored all the same."""

    code: WarningCode = Field(
        description="missing_outputs, extra_outputs: fewer or more than asked; "
        "size_differs, format_differs: not as asked; "
        "not_checked: in quarantine, as WaveSpeedAI did not say whether it is safe for work; "
        "blank: one colour all over; unusual: it could not be looked at in full, and is stored as it came."
    )
    message: str
    output: int | None = Field(
        default=None, description="The output's number, from 1; null where it is about the whole job."
    )

    @property
    def line(self) -> str:
        """All of it in one line, for people."""
        about = f"output {self.output}: " if self.output else ""
        return f"{about}{self.message} ({self.code})"


class Output(BaseModel):
    """One restyled picture. A dropped one (``nsfw="drop"``) has no uri; ``nsfw`` is None if not checked."""

    uri: str | None
    sha256: str | None = None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    content_type: str | None = None
    nsfw: bool | None = None


class Restyled(BaseModel):
    """A finished job.

    Attributes:
        cached: it was done before this run looked.
        cost_usd: what this job cost in USD; 0 when cached, None when the price is not known.
    """

    job_key: str
    prediction_id: str
    cached: bool
    cost_usd: float | None
    seed: int
    outputs: list[Output]
    warnings: list[OutputWarning] = Field(default_factory=list)
    metadata_uri: str

    _thumbnail: ProcessLocal[Callable[[Output], bytes | None]] = PrivateAttr(default_factory=ProcessLocal)

    def shown_by(self, thumbnail: Callable[[Output], bytes | None]) -> Restyled:
        """The same, and a notebook shows thumbnails: small JPEGs; None for what must not be shown.

        Only in this process: a copy that was pickled shows the figures alone.
        """
        self._thumbnail = ProcessLocal(thumbnail)
        return self

    def _repr_html_(self) -> str:
        """What a notebook shows: the pictures, none that is flagged or in quarantine, and the figures."""
        pictures = "".join(self._picture(number, output) for number, output in enumerate(self.outputs, 1))
        cost = "unknown" if self.cost_usd is None else f"{self.cost_usd:g} USD"
        rows = {
            "Cost": "0 USD: stored by an earlier run" if self.cached else cost,
            "Seed": self.seed,
            **{f"Output {number}": output.uri or "dropped" for number, output in enumerate(self.outputs, 1)},
            **{f"Warning {number}": one.line for number, one in enumerate(self.warnings, 1)},
            "Side-car": self.metadata_uri,
            "Prediction": self.prediction_id,
        }
        return f"<p>{pictures}</p>{html_table(rows)}"

    def _picture(self, number: int, output: Output) -> str:
        try:
            jpeg = self._thumbnail.value(output) if self._thumbnail.value else None
        except Exception:  # deleted or forbidden by now: the figures are shown all the same
            jpeg = None
        if jpeg is None:
            return ""
        return f'<img alt="Output {number}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"> '
