"""The third step: a completed prediction's outputs are stored, and its job is closed."""

from __future__ import annotations

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import NotFoundError, OutputError
from prefect_wavespeed.job import Job, NsfwRules, Restyled, RunInfo
from prefect_wavespeed.ledger.records import Attempt
from prefect_wavespeed.ledger.sidecar import JobHistory, make_side_car, restyled_from
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.steps.context import StepContext
from prefect_wavespeed.steps.memory import FirstAttempt
from prefect_wavespeed.steps.output_collector import OutputCollector
from prefect_wavespeed.storage import layout
from prefect_wavespeed.urls import without_signature


class OutputStep:
    """Stores outputs.

    Args:
        context: what it works with.
    """

    def __init__(self, context: StepContext) -> None:
        self._context = context

    async def download(self, job: Job, submitted: Submitted, run: RunInfo, nsfw: NsfwRules) -> Restyled:
        """``StepSet.download``."""
        context, ledger, store = self._context, self._context.ledger, self._context.store
        await store.ensure_conditional_put()  # which also reads the store's clock
        first = context.memory.take_first_attempt(job, submitted)
        # Whoever submitted a job is hardly ever too late, and would notice when writing the side-car.
        if not first and (existing := await ledger.side_car(job)):
            await context.remove_leftovers(job)  # a runner that slept through it all may have recorded since
            return restyled_from(store, job, existing, cached=False)
        try:
            prediction = context.memory.take_completed(submitted.prediction_id)
            prediction = prediction or await context.client.result(submitted.prediction_id)
            _check_readable(prediction, job)
            completed = store.now()
            collector = OutputCollector(
                context.client, store, job, prediction, run, nsfw, context.on_thumbnail
            )
            collected = await collector.collect()
        except NotFoundError:  # polling finds out whether it is lost for good
            raise OutputError(
                "WaveSpeedAI does not know the prediction at the moment: run the job again",
                job_key=job.key,
                prediction_id=submitted.prediction_id,
            ) from None
        history = _history_of(first) if first else await self._read_history(job, submitted.attempt)
        side_car = make_side_car(
            job,
            submitted.attempt,
            collector.prediction,
            collected.outputs,
            collected.warnings,
            history,
            run,
            completed=completed,
            stored=store.now(),
        )
        if collected.remarkable:
            await store.put(layout.remarks(job.name), b"", "text/plain")
        kept = await ledger.finish(job, side_car, collector.object_metadata)
        if kept is side_car:
            await ledger.close(job.key, history.open_job, submitted.attempt, done=True)
        else:
            await context.remove_leftovers(job)
        return restyled_from(store, job, kept, cached=False)

    async def _read_history(self, job: Job, attempt: int) -> JobHistory:
        ledger = self._context.ledger
        open_job = await ledger.open_job(job.key)
        claim, record = await ledger.read_claim(job.key, attempt), await ledger.read_record(job.key, attempt)
        return JobHistory(
            open_job,
            claim.request if claim else job.request(without_signature(job.source.location)),
            record.quoted_usd if record else None,
            await self._context.attempts(job, open_job, attempt, has_failed=False),
        )


def _check_readable(prediction: Prediction, job: Job) -> None:
    """Leave a job open whose paid outputs all came in a form that is not understood."""
    if (came := prediction.unreadable_outputs) and not any(prediction.outputs):
        raise OutputError(
            "WaveSpeedAI sent outputs in a form that this version cannot read; the job stays open, and "
            f"running it with a newer version finishes it: {came}",
            job_key=job.key,
            prediction_id=prediction.id,
            retryable=False,
        )


def _history_of(first: FirstAttempt) -> JobHistory:
    """Of an attempt that this process made: nothing needs to be read."""
    attempt = Attempt(
        claimed_at=first.claimed,
        flow_run_id=first.claim.flow_run_id,
        flow_run_name=first.claim.flow_run_name,
        prediction_id=first.record.prediction_id,
    )
    return JobHistory(first.open_job, first.claim.request, first.record.quoted_usd, [attempt])
