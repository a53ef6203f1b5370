"""The second step: waiting until a prediction has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from prefect_wavespeed import metrics
from prefect_wavespeed.api.predictions import ENDED_BADLY, STATUSES, Prediction
from prefect_wavespeed.errors import (
    NotFoundError,
    PredictionTimeoutError,
    RateLimitedError,
    RestyleError,
    UnavailableError,
    redact,
)
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.records import Failure
from prefect_wavespeed.retry import LONGEST_WAIT, backoff
from prefect_wavespeed.steps.attempts import Polled, Submitted, allows_another_attempt, describe_end
from prefect_wavespeed.steps.context import StepContext
from prefect_wavespeed.steps.poll_schedule import poll_schedule
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox

DOUBTS = 3
"""The API may for a moment not know a prediction, or know it without its outputs: so many answers in a row,
over RESTYLE_RECONCILE_SECONDS at least, before that is believed."""

TEXT_FACTOR = 15
"""How many times as long a refusal must go on that says it by its text alone: what is paid for is given up
then, and an outage may last minutes (five, as RESTYLE_RECONCILE_SECONDS is set by default)."""


_IN_PROGRESS = "it is still in progress"


class PredictionWait:
    """Waits for predictions, and decides what the end of one means for its job."""

    def __init__(self, context: StepContext) -> None:
        self._context = context

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """``StepSet.poll``."""
        prediction_id = submitted.prediction_id
        pace = self._context.client.pace
        pace.started(prediction_id)
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                prediction = await self._end_of(job, submitted)
        except NotFoundError:
            failure, answer = _lost(prediction_id), None
        else:
            if prediction.status == "completed" and prediction.outputs:
                self._context.memory.keep_completed(prediction)
                return Polled(
                    prediction_id=prediction_id, completed=True, inference_ms=prediction.inference_ms
                )
            if allows_another_attempt(prediction) and not submitted.last_attempt:
                return Polled(prediction_id=prediction_id, completed=False, error=describe_end(prediction))
            failure, answer = _failed(prediction), prediction.answer
        finally:
            pace.ended(prediction_id)  # also where a webhook said so, or nobody follows it any longer
        if await self._context.ledger.side_car(job):  # another runner stored it before
            return Polled(prediction_id=prediction_id, completed=True)
        raise await self._context.give_up(job, submitted.attempt, failure, answer)

    async def _end_of(self, job: Job, submitted: Submitted) -> Prediction:
        """Ask for the result until it is final, or a webhook delivers it.

        Raises:
            NotFoundError: the API has not known it for long, and its history does not list it either.
            PredictionTimeoutError: it was not ready in time.
        """
        settings, doubts = self._context.settings, Doubts()
        deadline = time.monotonic() + settings.poll_timeout_seconds
        pauses, paused_until, state = backoff(), 0.0, _IN_PROGRESS
        since = self._context.memory.answered_at(submitted)
        # A job with base64 outputs was submitted without a webhook.
        inbox = WebhookInbox() if job.params.enable_base64_output else self._context.inbox
        with (
            inbox.watch(submitted.prediction_id) as notice,
            poll_schedule.flight(
                fresh=submitted.fresh, since=since, notice=notice, least=settings.min_poll_seconds
            ) as flight,
        ):
            while (left := deadline - time.monotonic()) > 0:
                await flight.wait(paused_until - time.monotonic(), left)
                if notified := notice.read():
                    if notified.status == "completed" and notified.outputs:
                        flight.ready((notified.inference_ms or 0) / 1000)
                        return notified
                    if time.monotonic() < paused_until:
                        continue
                try:
                    prediction = await self._context.client.result(submitted.prediction_id)
                except NotFoundError as error:
                    factor = 1 if error.status == 404 else TEXT_FACTOR
                    if doubts.are_believed(factor * settings.reconcile_seconds):
                        if await self._is_gone(submitted):
                            raise
                        doubts.clear()
                    state = error.message
                    continue
                except RateLimitedError as error:
                    state = error.message
                    flight.refused(error.retry_after)
                    continue
                except UnavailableError as error:
                    state = error.message
                    doubts.clear()  # what it said just before may have been part of the same outage
                    asked = min(error.retry_after or 0, LONGEST_WAIT)
                    paused_until = time.monotonic() + max(next(pauses), asked)
                    continue
                flight.answered()
                if prediction.status == "completed" and not prediction.outputs:
                    state = "it is completed without outputs"
                    if doubts.are_believed(settings.reconcile_seconds):
                        return prediction
                elif prediction.terminal:
                    if prediction.status == "completed":
                        flight.ready((prediction.inference_ms or 0) / 1000)
                    return prediction
                else:
                    doubts.clear()
                    flight.not_ready()
                    state = _IN_PROGRESS
                    if prediction.status not in STATUSES:
                        state = f"its status is {redact(prediction.status)!r}, which is not known"
        if state != _IN_PROGRESS:
            await self._context.note_error(job, submitted.attempt, state)
        raise PredictionTimeoutError(
            f"{state}: the prediction was not ready after {settings.poll_timeout_seconds:g} s: "
            "run the job again to resume it",
            job_key=submitted.job_key,
            prediction_id=submitted.prediction_id,
        )

    async def _is_gone(self, submitted: Submitted) -> bool:
        """Whether the history confirms that a prediction which the result call does not know is lost.

        What it lists exists: then the result call fails. So it may while the history cannot be read.
        """
        try:
            await self._context.store.ensure_conditional_put()  # which also reads the store's clock
            open_job = await self._context.ledger.open_job(submitted.job_key)
            since = open_job.claimed.get(submitted.attempt, self._context.store.now())
            listed = await self._context.history.find(submitted.prediction_id, since)
        except RestyleError:
            return False
        return listed is None or listed.status in ENDED_BADLY


class Doubts:
    """Answers in a row that a prediction which was created just now may give: unknown, or without outputs.

    Args:
        clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._since = 0.0

    def are_believed(self, seconds: float) -> bool:
        """Count one more; whether there were enough before it.

        Args:
            seconds: for how long at least they must have gone on.
        """
        if not self._count:
            self._since = self._clock()
        enough = self._count >= DOUBTS and self._clock() - self._since >= seconds
        self._count += 1
        return enough

    def clear(self) -> None:
        """The prediction is known, and in progress; or nothing is known."""
        self._count = 0


def _failed(prediction: Prediction) -> Failure:
    return Failure(
        type="PredictionFailed",
        message=describe_end(prediction),
        code=prediction.code,
        status=prediction.status,
        prediction_id=prediction.id,
    )


def _lost(prediction_id: str) -> Failure:
    return Failure(
        type="PredictionLost",
        message="WaveSpeedAI no longer knows the prediction",
        status="deleted",
        prediction_id=prediction_id,
    )
