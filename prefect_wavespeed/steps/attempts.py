"""An attempt at a job, as it goes from step to step, and what the steps share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import PredictionFailedError, RestyleError, redact
from prefect_wavespeed.job import Job, Restyled
from prefect_wavespeed.ledger.history import History
from prefect_wavespeed.ledger.ledger import Ledger, now
from prefect_wavespeed.ledger.records import Attempt, Claim, DeadLetter, Failure, OpenJob, Record, SourceInfo
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.sources.publish import Publisher
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import without_signature

MAX_ATTEMPTS = 3
# Jobs whose facts are kept in memory from step to step; of more, those of the oldest are read again.
_REMEMBERED = 20_000

_Value = TypeVar("_Value")


class Submitted(BaseModel):
    """A job's attempt, submitted by this runner or another one; or the job, done already.

    Attributes:
        restyled: what there is already; the job needs no polling.
        flow_run_id: the flow run whose claim it is; None where the claim is gone, or no flow made it.
        fresh: it was submitted just now by this call.
        last_attempt: when this one fails, the job has failed.
    """

    job_key: str
    prediction_id: str
    attempt: int = 0
    restyled: Restyled | None = None
    flow_run_id: str | None = None
    fresh: bool = False
    last_attempt: bool = False


class Polled(BaseModel):
    """What became of an attempt: completed, or failed in a way that may go again."""

    prediction_id: str
    completed: bool
    inference_ms: float | None = None
    error: str = ""


Admit = Callable[[Job, int, float | None], Awaitable[None]]
"""What ``StepSet`` asks before each claim: the job, the attempt's number, its price in USD where known."""


@dataclass(frozen=True)
class Mine:
    """A job's first attempt, claimed and submitted by this process: all that is there of it under ``open/``.

    ``claimed`` and ``recorded`` are told by the store's clock, ``answered`` is on our monotonic one.
    """

    claim: Claim
    record: Record
    claimed: datetime
    recorded: datetime
    answered: float

    @property
    def open_job(self) -> OpenJob:
        """What a listing would tell."""
        return OpenJob({1: self.claimed}, {1: self.recorded})


class Memory:
    """What this process knows of jobs under way, so that no step reads what an earlier one wrote.

    It is never needed: what is forgotten is read from the ledger, and what is remembered never decides
    whether something is billed.
    """

    def __init__(self) -> None:
        self._mine: dict[str, Mine] = {}
        self._completed: dict[str, Prediction] = {}
        self._unseen: dict[str, None] = {}

    def submitted(self, job: Job, mine: Mine) -> None:
        """Remember a first attempt of ours."""
        _keep(self._mine, job.key, mine)

    def mine(self, job: Job, submitted: Submitted) -> Mine | None:
        """What there is of an attempt, if it is the first and ours; told once."""
        mine = self._mine.pop(job.key, None)
        return mine if mine and mine.record.prediction_id == submitted.prediction_id else None

    def since(self, submitted: Submitted) -> float | None:
        """When the submission of a first attempt of ours was answered, on the monotonic clock."""
        mine = self._mine.get(submitted.job_key)
        return mine.answered if mine and mine.record.prediction_id == submitted.prediction_id else None

    def completed(self, prediction: Prediction) -> None:
        """Remember a completed prediction."""
        _keep(self._completed, prediction.id, prediction)

    def take_completed(self, prediction_id: str) -> Prediction | None:
        """A completed prediction; told once."""
        return self._completed.pop(prediction_id, None)

    def unseen(self, job: Job) -> None:
        """Remember that nothing was there of a job."""
        _keep(self._unseen, job.key, None)

    def take_unseen(self, job: Job) -> bool:
        """Whether nothing was there of a job; told once."""
        return self._unseen.pop(job.key, self) is None

    def forget(self, job: Job) -> None:
        """Forget an attempt of ours that came to nothing."""
        self._mine.pop(job.key, None)


def _keep(known: dict[str, _Value], key: str, value: _Value) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]


@dataclass
class Shared:
    """What the steps work with."""

    client: WaveSpeedClient
    store: Store
    settings: Settings
    inbox: WebhookInbox = field(default_factory=WebhookInbox)
    ledger: Ledger = field(init=False)
    history: History = field(init=False)
    publisher: Publisher = field(init=False)
    prices: PriceCache = field(init=False)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store)
        self.history = History(self.client)
        self.publisher = Publisher(self.client, self.store)
        self.prices = PriceCache(self.client)

    async def sweep(self, job: Job) -> None:
        """Remove what is still open of a job that is done."""
        left = await self.ledger.open(job.key)
        await self.ledger.close(job.key, left, left.latest, done=True)

    async def fail(self, job: Job, attempt: int, failure: Failure) -> PredictionFailedError:
        """Write the job's dead letter, close the job, and return the error that tells of it."""
        self.memory.forget(job)
        open_job = await self.ledger.open(job.key)
        claim = await self.ledger.claimed(job.key, attempt)
        letter = DeadLetter(
            job_key=job.key,
            last_attempt=attempt,
            error=failure,
            flow_run_id=claim.flow_run_id if claim else None,
            source=source_facts(job),
            request=job.request(without_signature(job.source.location)),
            variant=job.variant,
            attempts=await self.attempts(job, open_job, attempt),
            failed_at=now(),
        )
        letter = await self.ledger.bury(letter)
        await self.ledger.close(job.key, open_job, letter.last_attempt, done=False)
        return letter.as_error()

    async def attempts(self, job: Job, open_job: OpenJob, last: int) -> list[Attempt]:
        """The attempts as the ledger has them, with what WaveSpeedAI says of those that failed."""
        told = []
        for number, claimed_at in sorted(open_job.claimed.items()):
            if number > last:
                break
            record = await self.ledger.recorded(job.key, number) if number in open_job.recorded else None
            claim = await self.ledger.claimed(job.key, number)
            attempt = Attempt(
                claimed_at=claimed_at,
                flow_run_id=claim.flow_run_id if claim else None,
                prediction_id=record.prediction_id if record else None,
            )
            if number < last:
                attempt.error = await self._why(record.prediction_id) if record else "no answer was recorded"
            told.append(attempt)
        return told

    async def _why(self, prediction_id: str) -> str:
        try:
            return ending(await self.client.result(prediction_id))
        except RestyleError as error:
            return error.message


def ending(prediction: Prediction) -> str:
    """How a prediction ended, in one line."""
    if prediction.status == "completed":
        said = "completed without outputs"
    else:
        said = f"{prediction.status}: {redact(prediction.error) or 'no reason given'}"
    code = f" (code {prediction.code})" if prediction.code else ""
    return f"prediction {prediction.id} {said}{code}"


def source_facts(job: Job) -> SourceInfo:
    """The source, as the side-car and the dead letter tell it."""
    return SourceInfo(uri=job.source.uri, identity=job.source.identity, sha256=job.source.sha256)
