"""What this process remembers of jobs in progress, so that no step reads what an earlier one wrote."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cachetools import LRUCache

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.records import Claim, OpenJob, Record
from prefect_wavespeed.steps.attempts import Submitted

_JOBS = 20_000  # of more, those of the oldest are read again


@dataclass(frozen=True)
class FirstAttempt:
    """A job's first attempt, claimed and submitted by this process: all that is open of it.

    Attributes:
        claimed, recorded: when, by the store's clock.
        answered: when the submission was answered, on this process's monotonic clock.
    """

    claim: Claim
    record: Record
    claimed: datetime
    recorded: datetime
    answered: float

    @property
    def open_job(self) -> OpenJob:
        """What a listing would find."""
        return OpenJob({1: self.claimed}, {1: self.recorded})


class Memory:
    """Never needed: what is forgotten is read from the ledger, and nothing in here decides about a bill."""

    def __init__(self) -> None:
        self._first: LRUCache[str, FirstAttempt] = LRUCache(_JOBS)
        self._completed: LRUCache[str, Prediction] = LRUCache(_JOBS)
        self._new: LRUCache[str, bool] = LRUCache(_JOBS)

    def keep_first_attempt(self, job: Job, attempt: FirstAttempt) -> None:
        """Remember a first attempt of this process."""
        self._first[job.key] = attempt

    def take_first_attempt(self, job: Job, submitted: Submitted) -> FirstAttempt | None:
        """The attempt, if it is a first one of this process; returned once."""
        first = self._first.pop(job.key, None)
        return first if first and first.record.prediction_id == submitted.prediction_id else None

    def answered_at(self, submitted: Submitted) -> float | None:
        """When the submission of a first attempt of this process was answered (monotonic clock)."""
        first = self._first.get(submitted.job_key)
        return first.answered if first and first.record.prediction_id == submitted.prediction_id else None

    def forget_attempt(self, job: Job) -> None:
        """Forget an attempt that failed."""
        self._first.pop(job.key, None)

    def keep_completed(self, prediction: Prediction) -> None:
        """Remember a completed prediction."""
        self._completed[prediction.id] = prediction

    def take_completed(self, prediction_id: str) -> Prediction | None:
        """A completed prediction; returned once."""
        return self._completed.pop(prediction_id, None)

    def keep_new(self, job: Job) -> None:
        """Remember that the ledger held nothing of a job when it was listed."""
        self._new[job.key] = True

    def take_new(self, job: Job) -> bool:
        """Whether the ledger held nothing of a job; returned once."""
        return bool(self._new.pop(job.key, False))
