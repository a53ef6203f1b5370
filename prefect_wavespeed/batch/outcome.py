"""How a job of a batch ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from prefect_wavespeed import errors
from prefect_wavespeed.errors import PredictionFailedError, RestyleError
from prefect_wavespeed.job import Restyled, WarningCode
from prefect_wavespeed.reasons import in_words
from prefect_wavespeed.words import counted

Status = Literal["stored", "done", "submitted", "failed", "given_up", "open", "unsubmitted", "invalid"]
"""``stored``: by this run; ``done``: stored earlier; ``submitted``: left to settle; ``failed``: an error, for
good or in this run; ``given_up``: failed for good in an earlier run, and was not tried again; ``open``:
left open in the ledger when the run ended; ``unsubmitted``: never sent, because a cap was reached or the run
stopped; ``invalid``: a bad row that was skipped."""

NOT_STORED: tuple[Status, ...] = ("failed", "given_up", "open", "unsubmitted", "invalid")
"""Rows without pictures that somebody is notified of; what is submitted only is left to settle on purpose."""


def counts_in_words(counts: Mapping[Status, int]) -> str:
    """How rows ended, as in ``284 stored, 12 failed, 4 rows ignored``."""
    others: list[Status] = [status for status in get_args(Status) if status != "invalid"]
    parts = [f"{counts[status]:,} {in_words(status)}" for status in others if counts.get(status)]
    if ignored := counts.get("invalid", 0):
        parts.append(f"{counted(ignored, 'row')} ignored")
    return ", ".join(parts) or "no rows"


@dataclass(frozen=True)
class JobOutcome:
    """The outcome of a job, for all rows that ask for it. The fields are those of ``ReportRow``."""

    status: Status
    prediction_id: str | None = None
    outputs: list[str] = field(default_factory=list)
    warnings: list[WarningCode] = field(default_factory=list)
    warning_outputs: list[int | None] = field(default_factory=list)
    flagged: list[int] = field(default_factory=list)
    metadata_uri: str | None = None
    cost_usd: float | None = None
    attempts: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_code: int | None = None
    attempt_errors: list[str] = field(default_factory=list)
    retryable: bool | None = None
    seconds: float | None = None

    @classmethod
    def of_pictures(
        cls, restyled: Restyled, *, paid: bool, attempts: int | None = None, seconds: float | None = None
    ) -> JobOutcome:
        """A job whose pictures are stored.

        Args:
            restyled: what is stored.
            paid: whether this run paid for it.
            attempts: how often it was submitted.
            seconds: from submission to stored.
        """
        return cls(
            "done" if restyled.cached else "stored",
            prediction_id=restyled.prediction_id,
            outputs=[output.uri for output in restyled.outputs if output.uri],
            warnings=[warning.code for warning in restyled.warnings],
            warning_outputs=[warning.output for warning in restyled.warnings],
            flagged=[number for number, output in enumerate(restyled.outputs, 1) if output.nsfw],
            metadata_uri=restyled.metadata_uri,
            cost_usd=restyled.cost_usd if paid else 0.0,
            attempts=attempts,
            seconds=seconds,
        )

    @classmethod
    def of_error(
        cls,
        status: Status,
        error: RestyleError,
        *,
        prediction_id: str | None = None,
        attempts: int | None = None,
    ) -> JobOutcome:
        """A job that ended with an error."""
        return cls(
            status,
            prediction_id=error.prediction_id or prediction_id,
            attempts=attempts,
            error_type=type(error).__name__,
            error_message=error.message,
            error_code=(error.code or None) if isinstance(error, PredictionFailedError) else None,
            attempt_errors=list(error.attempt_errors),
            retryable=error.retryable,
        )


def rebuilt_error(error_type: str | None, message: str, retryable: bool | None) -> RestyleError:
    """An error as an outcome keeps it: its class, its message and whether it may be retried."""
    kind = getattr(errors, error_type or "", None)
    if not (isinstance(kind, type) and issubclass(kind, RestyleError)):
        kind = RestyleError
    error: RestyleError = kind(message)
    if retryable is not None:
        error.retryable = retryable
    return error
