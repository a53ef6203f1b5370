"""The second step: waiting for a prediction's end."""

from __future__ import annotations

import time

from prefect_wavespeed import metrics
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import NotFoundError, PredictionTimeoutError, RateLimitedError, UnavailableError
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.records import Failure
from prefect_wavespeed.retry import backoff
from prefect_wavespeed.steps.attempts import Polled, Shared, Submitted, ending
from prefect_wavespeed.steps.poll_schedule import poll_schedule

# An API may for a moment not know a prediction, or know it without its outputs: so many answers in a row,
# over RESTYLE_RECONCILE_SECONDS at least, before that is believed.
DOUBTS = 3


class Poller:
    """Polls."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._client = shared.client
        self._settings = shared.settings
        self._ledger = shared.ledger
        self._memory = shared.memory
        self._inbox = shared.inbox

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """``StepSet.poll``."""
        prediction_id = submitted.prediction_id
        try:
            with metrics.IN_FLIGHT.track_inprogress():
                prediction = await self._watch(submitted)
        except NotFoundError:
            failure = _lost(prediction_id)
        else:
            if prediction.status == "completed" and prediction.outputs:
                self._memory.completed(prediction)
                return Polled(
                    prediction_id=prediction_id, completed=True, inference_ms=prediction.inference_ms
                )
            if _may_go_again(prediction) and not submitted.last_attempt:
                return Polled(prediction_id=prediction_id, completed=False, error=ending(prediction))
            failure = _failure(prediction)
        if await self._ledger.done(job):  # by another runner, earlier
            return Polled(prediction_id=prediction_id, completed=True)
        raise await self._shared.fail(job, submitted.attempt, failure)

    async def _watch(self, submitted: Submitted) -> Prediction:
        """Ask for the result until it is final, or a webhook has told it.

        Raises:
            NotFoundError: the API has not known the prediction for long enough to be believed.
            PredictionTimeoutError: it was not ready in time.
        """
        start = time.monotonic()
        doubts = 0  # answers in a row that may be a fresh prediction's: unknown, or outputs still to come
        doubted = start
        rests = backoff()
        resting = start
        since = self._memory.since(submitted)
        with (
            self._inbox.watch(submitted.prediction_id) as notice,
            poll_schedule.flight(fresh=submitted.fresh, since=since, notice=notice) as flight,
        ):
            while True:
                left = start + self._settings.poll_timeout_seconds - time.monotonic()
                if left <= 0:
                    raise PredictionTimeoutError(
                        f"prediction {submitted.prediction_id} was not ready after "
                        f"{self._settings.poll_timeout_seconds:g} s: it goes on; run the job again to "
                        "resume it",
                        job_key=submitted.job_key,
                        prediction_id=submitted.prediction_id,
                    )
                await flight.wait(resting - time.monotonic(), left)
                if told := notice.read():
                    if told.status == "completed" and told.outputs:
                        flight.ready((told.inference_ms or 0) / 1000)
                        return told
                    if time.monotonic() < resting:
                        continue
                if not doubts:
                    doubted = time.monotonic()
                sure = doubts >= DOUBTS and time.monotonic() - doubted >= self._settings.reconcile_seconds
                try:
                    prediction = await self._client.result(submitted.prediction_id)
                except NotFoundError:
                    if sure:
                        raise
                    doubts += 1
                except (UnavailableError, RateLimitedError) as error:
                    resting = time.monotonic() + max(next(rests), error.retry_after or 0)
                else:
                    if prediction.status == "completed" and not prediction.outputs and not sure:
                        doubts += 1
                    elif prediction.terminal:
                        if prediction.status == "completed":
                            flight.ready((prediction.inference_ms or 0) / 1000)
                        return prediction
                    else:
                        doubts = 0
                        flight.not_ready()


def _may_go_again(prediction: Prediction) -> bool:
    """Whether WaveSpeedAI says that another attempt may succeed: codes 5xxx and timeouts."""
    return prediction.status == "timeout" or (
        prediction.status == "failed" and 5000 <= prediction.code < 6000
    )


def _failure(prediction: Prediction) -> Failure:
    return Failure(
        type="PredictionFailed",
        message=ending(prediction),
        code=prediction.code,
        status=prediction.status,
        prediction_id=prediction.id,
    )


def _lost(prediction_id: str) -> Failure:
    return Failure(
        type="PredictionLost",
        message=f"WaveSpeed does not know prediction {prediction_id} any more",
        status="deleted",
        prediction_id=prediction_id,
    )
