"""What settling an output did, job by job and in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, Field, PrivateAttr

from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.job import Job, Restyled, WarningCode
from prefect_wavespeed.reasons import Reason, Reasons

MAX_PROBLEMS = 1_000
"""Problems that are listed; of more, only the number is kept."""

SettleStatus = Literal[
    "stored",
    "closed",
    "failed",
    "running",
    "not_ready",
    "not_submitted",
    "unsure",
    "retryable",
    "other_api",
    "error",
]
"""How a job ended up; the fields of ``Settled`` explain each word."""
_PROBLEMS: frozenset[SettleStatus] = frozenset(
    {"failed", "not_ready", "not_submitted", "unsure", "retryable", "other_api", "error"}
)


@dataclass
class SettleOutcome:
    """How one job ended up.

    Attributes:
        status: None as long as it is being worked on.
        job: None where nothing says what was asked for.
        restyled: what is stored of it, now or before.
        error: why it has failed for good, now or before.
    """

    job_key: str
    status: SettleStatus | None = None
    message: str = ""
    job: Job | None = None
    prediction_id: str | None = None
    restyled: Restyled | None = None
    error: PredictionFailedError | None = None


class Problem(BaseModel):
    """A job that is not stored, and why."""

    job_key: str
    status: SettleStatus
    message: str
    source: str | None = Field(description="The source, without its signature.")
    prediction_id: str | None


class Settled(BaseModel):
    """What was done, in jobs."""

    stored: int = Field(default=0, description="Their outputs were stored now.")
    closed: int = Field(default=0, description="Were done, or had failed, before: what was open is removed.")
    failed: int = Field(default=0, description="Failed for good; each has its dead letter.")
    running: int = Field(default=0, description="A runner has just claimed them: left alone.")
    not_ready: int = Field(default=0, description="Still in progress when the time for polling was over.")
    not_submitted: int = Field(default=0, description="Their runner is gone and never submitted them.")
    unsure: int = Field(default=0, description="Nobody can tell whether they were submitted: resolve them.")
    retryable: int = Field(default=0, description="Failed at WaveSpeedAI; another attempt is allowed.")
    other_api: int = Field(default=0, description="Open at another API: left alone.")
    error: int = Field(default=0, description="Something went wrong here; they are as they were.")
    warnings: dict[WarningCode, int] = Field(
        default_factory=dict, description="What is wrong with the outputs that were stored now, by code."
    )
    reasons: list[Reason] = Field(
        default_factory=list,
        description="Why jobs are not stored, the most frequent reasons first, with the first ones' sources.",
    )
    problems: list[Problem] = Field(default_factory=list, description=f"The first {MAX_PROBLEMS}.")
    problems_left_out: int = 0
    _reasons: Reasons = PrivateAttr(default_factory=Reasons)

    def groups(self) -> list[tuple[str, int]]:
        """What was done, for people: a line for each group, and how many jobs are in it."""
        return [
            ("stored", self.stored),
            ("done or failed before: what was left open is removed", self.closed),
            ("failed for good: see failed/", self.failed),
            ("being run by another process: left alone", self.running),
            ("still in progress at WaveSpeedAI: settle again later", self.not_ready),
            ("never submitted: run them again", self.not_submitted),
            ("not known whether submitted: see `restyle resolve`", self.unsure),
            ("failed at WaveSpeedAI and may be tried again: run them again", self.retryable),
            ("open at another API: settle them with that one", self.other_api),
            ("error: left as they were", self.error),
        ]

    @property
    def outcome(self) -> str:
        """What was done, in one line."""
        groups = [
            (self.stored, "stored"),
            (self.closed, "closed"),
            (self.failed, "failed for good"),
            (self.running, "running"),
            (self.not_ready, "not ready"),
            (self.not_submitted, "not submitted"),
            (self.unsure, "in doubt"),
            (self.retryable, "to be tried again"),
            (self.other_api, "at another API"),
            (self.error, "with an error"),
        ]
        return ", ".join(f"{count:,} {words}" for count, words in groups if count) or "nothing was open"

    def complete(self) -> Self:
        """The same, with its reasons: all jobs have been counted."""
        self.reasons, self._reasons = self._reasons.listed(), Reasons()
        return self

    def count(self, outcome: SettleOutcome) -> None:
        """Add the outcome of a job."""
        if outcome.status is None:
            return
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        if outcome.status == "stored" and outcome.restyled:
            for warning in outcome.restyled.warnings:
                self.warnings[warning.code] = self.warnings.get(warning.code, 0) + 1
        if outcome.status not in _PROBLEMS:
            return
        source = outcome.job.source if outcome.job else None
        name = source.name if source else outcome.job_key[:16]
        self._reasons.add(outcome.status, outcome.message, name, source.uri if source else "")
        if len(self.problems) == MAX_PROBLEMS:
            self.problems_left_out += 1
            return
        self.problems.append(
            Problem(
                job_key=outcome.job_key,
                status=outcome.status,
                message=outcome.message,
                source=source.uri if source else None,
                prediction_id=outcome.prediction_id,
            )
        )
