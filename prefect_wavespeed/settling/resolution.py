"""Recording what a person has found out about a job that may have been submitted."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import (
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    UnsureSubmissionError,
)
from prefect_wavespeed.ledger import rules
from prefect_wavespeed.ledger.ledger import Look
from prefect_wavespeed.ledger.matching import compare
from prefect_wavespeed.ledger.records import Claim
from prefect_wavespeed.settings import Settings, get_settings
from prefect_wavespeed.steps.context import StepContext
from prefect_wavespeed.storage.store import Store


class Resolution:
    """What a person says about one open job. Nothing is submitted.

    Args:
        client: the API that the job was submitted to.
        store: where the job is.
        key: the job's key.
        settings: times; by default those of the environment.
    """

    def __init__(
        self, client: WaveSpeedClient, store: Store, key: str, settings: Settings | None = None
    ) -> None:
        self._context = StepContext(client, store, settings or get_settings())
        self._key = key

    async def is_prediction(self, prediction_id: str) -> None:
        """Record that a prediction is the job's newest attempt's; settling or the next run stores it.

        Raises:
            InvalidRequestError: it does not exist, is another job's, or was asked for something else.
            ConfigurationError: the job is not in doubt, or its runner may still be about to submit it.
            StoreError, UnavailableError: store or API cannot be used now.
        """
        attempt, claim = await self._doubtful_attempt()
        try:
            prediction = await self._context.client.result(prediction_id)
        except NotFoundError:
            raise InvalidRequestError(
                f"--prediction {prediction_id}: WaveSpeed does not know it: check the id, and that the API "
                "key is of the account that submitted the job",
                job_key=self._key,
            ) from None
        is_derived = claim.job.params.seed == -1
        if compare(prediction.input, prediction.model, claim.request, seed_is_unique=is_derived) == "no":
            raise InvalidRequestError(
                f"--prediction {prediction.id}: it was asked for something else than this job: "
                "compare both in your WaveSpeed account",
                job_key=self._key,
            )
        oldest = self._context.store.now() - timedelta(seconds=rules.HISTORY_SECONDS)
        await self._context.known.read(oldest)
        if self._context.known.remembers(prediction.id, but_for=self._key):
            raise InvalidRequestError(
                f"--prediction {prediction.id}: a job has it already: see `restyle show {prediction.id}`",
                job_key=self._key,
            )
        record = await self._context.make_record(claim.job, prediction)
        if (await self._doubtful_attempt())[0] != attempt:
            raise _gone_on(self._key)
        recorded = await self._context.ledger.record(self._key, attempt, record)
        if recorded.prediction_id != prediction.id:
            raise _submitted(recorded.prediction_id, self._key)

    async def is_not_submitted(self) -> None:
        """Record that nothing was submitted; the next run submits the job again.

        Raises:
            InvalidRequestError: WaveSpeedAI does tell: there is a prediction.
            ConfigurationError: the job is not in doubt, or its runner may still be about to submit it.
            StoreError, UnavailableError: store or API cannot be used now.
        """
        attempt, _ = await self._doubtful_attempt()
        with suppress(UnsureSubmissionError):  # nobody knows better
            if found := await self._find(attempt):
                raise InvalidRequestError(
                    "--not-submitted: WaveSpeed says that it was submitted: `restyle settle` stores it "
                    f"(prediction {found.id})",
                    job_key=self._key,
                )
        if (await self._doubtful_attempt())[0] != attempt:
            raise _gone_on(self._key)
        await self._context.ledger.rule_out(self._key, attempt)

    async def _find(self, attempt: int) -> Prediction | None:
        ledger = self._context.ledger
        open_job = await ledger.open_job(self._key)
        claims = {n: claim for n in open_job.claimed if (claim := await ledger.read_claim(self._key, n))}
        return await self._context.find_lost(open_job, claims, None, attempt=attempt, seconds=0.0)

    async def _doubtful_attempt(self) -> tuple[int, Claim]:
        context, ledger = self._context, self._context.ledger
        await context.store.ensure_conditional_put()  # which also reads the store's clock
        open_job = await ledger.open_job(self._key)
        attempt = open_job.latest
        claim = await ledger.read_claim(self._key, attempt) if attempt else None
        if claim and (side_car := await ledger.side_car(claim.job)):
            raise ConfigurationError(
                f"this job is done: nothing is in doubt (prediction {side_car.prediction.id})",
                job_key=self._key,
            )
        if record := await ledger.read_record(self._key, attempt) if attempt else None:
            raise _submitted(record.prediction_id, self._key)
        if claim is None:
            raise ConfigurationError(
                "this job is not open, so there is nothing to resolve", job_key=self._key
            )
        if claim.base_url != context.client.base_url:
            raise ConfigurationError(
                f"base_url {context.client.base_url}: this job is open at {claim.base_url}: "
                "use the WaveSpeed block of that API",
                job_key=self._key,
            )
        lease = context.lease_of(claim)
        state = context.job_state(Look(None, None, open_job), lease, flow_run_id=None)
        if not rules.can_be_ruled_out(state):
            left = lease.total_seconds() - state.claims.get(attempt, 0.0)
            raise ConfigurationError(
                f"a runner may still be submitting this job: try again in {left:.0f} s", job_key=self._key
            )
        return attempt, claim


def _gone_on(job_key: str) -> ConfigurationError:
    return ConfigurationError("another run has continued this job: look at it again", job_key=job_key)


def _submitted(prediction_id: str, job_key: str) -> ConfigurationError:
    return ConfigurationError(
        "this job is not in doubt: its prediction is recorded; `restyle settle` stores what is ready "
        f"(prediction {prediction_id})",
        job_key=job_key,
        prediction_id=prediction_id,
    )
