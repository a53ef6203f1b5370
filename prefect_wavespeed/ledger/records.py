"""The objects of the ledger: claims, predictions, dead letters and side-cars."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.job import Job, NsfwRules, OutputWarning, RunInfo

_ANSWER = "WaveSpeedAI's last answer about the prediction, as it came; without signatures and pictures."


class SourceInfo(BaseModel):
    """The source of a job."""

    uri: str
    identity: str
    sha256: str | None = None


class PredictionInfo(BaseModel):
    """The prediction that a job's outputs come from."""

    id: str
    model: str | None = Field(default=None, description="As WaveSpeedAI names it; null where it does not.")
    created_at: datetime | None = None
    inference_ms: float | None = None
    has_nsfw_contents: list[bool | None] = Field(
        default_factory=list, description="One for each output; null: not checked."
    )


class OutputInfo(BaseModel):
    """One output. A dropped one (``nsfw="drop"``) has no key, and nothing that its bytes would show."""

    key: str | None = Field(description="Object key below the output's prefix.")
    sha256: str | None = None
    bytes: int | None = None
    content_type: str | None = None
    width: int | None = Field(default=None, description="Pixels.")
    height: int | None = Field(default=None, description="Pixels.")
    nsfw: bool | None = Field(default=None, description="Whether it is flagged; null: not checked.")


class Cost(BaseModel):
    """What the job cost in USD, and how that is known."""

    usd: float | None = None
    basis: Literal["quoted", "billed"] | None = None


class Attempt(BaseModel):
    """One attempt at the job."""

    claimed_at: datetime
    flow_run_id: str | None = Field(default=None, description="The flow run that made it, and paid for it.")
    flow_run_name: str | None = None
    prediction_id: str | None = None
    error: str | None = None


class Times(BaseModel):
    """When things happened, in this order, by the store's clock."""

    claimed: datetime | None = None
    submitted: datetime | None = None
    completed: datetime | None = None
    stored: datetime


class Metadata(BaseModel):
    """The side-car, ``metadata.json``. It is written last: it exists, so the job is done."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    job_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    model: str = MODEL
    variant: int = Field(ge=0)
    source: SourceInfo
    request: ReduxRequest = Field(description="As sent, with its real seed; the URL without its signature.")
    prediction: PredictionInfo
    outputs: list[OutputInfo]
    warnings: list[OutputWarning] = Field(description="What is wrong with the outputs; mostly empty.")
    cost: Cost
    attempts: list[Attempt]
    run: RunInfo
    times: Times
    answer: dict[str, Any] = Field(description=_ANSWER)


class Claim(BaseModel):
    """Attempt *n* at a job belongs to the runner that holds ``nonce``."""

    nonce: str
    flow_run_id: str | None
    flow_run_name: str | None = None
    claimed_at: datetime = Field(description="By the runner's clock: only for people to read.")
    lease_seconds: float = Field(description="How long it holds without a prediction.")
    base_url: str = Field(description="The API that the request goes to.")
    request: ReduxRequest = Field(description="As it will be sent; the URL without its signature.")
    job: Job = Field(description="The job, for `settle` to finish if its runner is gone; without signature.")
    nsfw: NsfwRules = Field(description="What to do with flagged and with unchecked outputs.")


class Record(BaseModel):
    """The prediction of an attempt."""

    prediction_id: str
    submitted_at: datetime | None = Field(description="By the API's clock.")
    quoted_usd: float | None
    base_url: str = Field(description="The API that knows it.")


class Failure(BaseModel):
    """Why a job failed for good."""

    type: str
    message: str
    code: int = 0
    status: str = "failed"
    prediction_id: str | None = None


class DeadLetter(BaseModel):
    """``failed/{key}.json``. It keeps the last attempt's number, so that no number is used twice."""

    job_key: str
    last_attempt: int = Field(
        description="0: given up before any attempt. Such a letter does not stop a runner that has begun one."
    )
    error: Failure
    flow_run_id: str | None = Field(description="The run that gave it up.")
    source: SourceInfo
    request: ReduxRequest
    variant: int
    attempts: list[Attempt]
    failed_at: datetime
    answer: dict[str, Any] | None = Field(
        default=None,
        description=f"{_ANSWER} Null where there was none, or WaveSpeedAI knows the prediction no longer.",
    )

    def as_error(self) -> PredictionFailedError:
        """The error that it stands for."""
        return PredictionFailedError(
            self.error.message,
            job_key=self.job_key,
            prediction_id=self.error.prediction_id,
            code=self.error.code,
            status=self.error.status,
            flow_run_id=self.flow_run_id,
            attempt_errors=tuple(each.error for each in self.attempts if each.error),
        )


class Candidates(BaseModel):
    """Predictions that may be the job's, where the API did not say what they were asked for."""

    prediction_ids: list[str]
    found_at: datetime


class AttemptError(BaseModel):
    """What went wrong last with an attempt: for people, nothing is decided by it."""

    message: str
    noted_at: datetime


class NotSubmitted(BaseModel):
    """A person has found that no attempt so far was submitted, beyond those with a record."""

    found_at: datetime


@dataclass
class OpenJob:
    """The objects of an unfinished job, by attempt.

    Attributes:
        claimed: when each attempt was claimed, by the store's clock.
        recorded: when its prediction was recorded.
        doubtful: the attempts with a list of candidates.
        ruled_out: the attempts up to which a person has found that nothing was submitted.
        errors: the attempts with a note of what went wrong.
    """

    claimed: dict[int, datetime] = field(default_factory=dict)
    recorded: dict[int, datetime] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    ruled_out: set[int] = field(default_factory=set)
    errors: set[int] = field(default_factory=set)

    @property
    def latest(self) -> int:
        """The newest attempt; 0 when there is none."""
        return max((*self.claimed, *self.recorded), default=0)
