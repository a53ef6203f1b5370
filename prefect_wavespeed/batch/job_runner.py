"""Carry out one job of a batch after another, each to its outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import ENDED_BADLY
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.batch.gate import Gate, StoppedError
from prefect_wavespeed.batch.ledger_view import LedgerView
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.outcome import JobOutcome, Status
from prefect_wavespeed.batch.patience import patiently
from prefect_wavespeed.errors import (
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NoSlotError,
    NotFoundError,
    PredictionFailedError,
    RateLimitedError,
    RestyleError,
    SourceError,
    UnansweredSubmissionError,
    UnsureSubmissionError,
    redact,
)
from prefect_wavespeed.job import Job, Restyled
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.steps.run_job import DownloadStep, PollStep, SubmitStep, run_job

# After these the attempt that was about to be submitted was not billed.
_UNBILLED = (
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    SourceError,
)

# After these its last attempt stays open in the ledger, though no prediction is known.
_IN_DOUBT = (UnansweredSubmissionError, UnsureSubmissionError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Carrier:
    """The steps that carry out a job: those of ``StepSet`` or tasks around them.

    Attributes:
        submit, poll, download: the steps.
        slot: a slot in flight beside the batch's own, such as one that several processes share.
        expect_new: ``StepSet.expect_new``, called before a job of which the store held nothing.
    """

    submit: SubmitStep
    poll: PollStep
    download: DownloadStep
    slot: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    expect_new: Callable[[Job], object] = lambda _: None

    def with_retries(self) -> Carrier:
        """The same, with each step tried again after an error that may pass, where Prefect does not do so."""
        return replace(
            self,
            submit=patiently(self.submit),
            poll=patiently(self.poll),
            download=patiently(self.download),
        )


@dataclass
class _Flight:
    """How far a job has come in this run.

    Attributes:
        submitted: the attempt that is under way.
        since: when the first one was submitted, on the monotonic clock.
        paid: whether this run pays for the attempt under way.
        ever_paid: whether this run paid for any attempt.
    """

    submitted: Submitted | None = None
    since: float | None = None
    paid: bool = False
    ever_paid: bool = False


class JobRunner:
    """Runs jobs, keeping to a number of slots in flight.

    Args:
        client: asked about predictions that other runs submitted.
        options: of the batch.
        prices: what jobs cost.
        budget: frees what attempts that were not billed had reserved.
        gate: stops submitting after errors that every further submission would meet.
        ledger: says which submissions are this run's own.
    """

    def __init__(
        self,
        client: WaveSpeedClient,
        options: BatchOptions,
        prices: PriceCache,
        budget: Budget,
        gate: Gate,
        ledger: LedgerView,
    ) -> None:
        self._client = client
        self._options = options
        self._prices = prices
        self._budget = budget
        self._gate = gate
        self._ledger = ledger
        self._slots = asyncio.Semaphore(options.concurrency)
        self._occupied: set[asyncio.Task[None]] = set()  # slots of predictions that no one waits for

    async def aclose(self) -> None:
        """Free the slots of predictions that are left to settle."""
        for task in self._occupied:
            task.cancel()
        await asyncio.gather(*self._occupied, return_exceptions=True)

    async def run(self, job: Job, carrier: Carrier) -> JobOutcome:
        """Carry out a job as far as the options ask for. Its errors become outcomes: others go on."""
        flight = _Flight()
        try:
            try:
                if not self._options.wait:
                    return await self._submit_only(job, carrier, flight)
                submit = partial(self._submit, carrier.submit, flight)
                slot = partial(self._slot, carrier)
                restyled = await run_job(job, submit, carrier.poll, carrier.download, slot)
                return _stored(restyled, flight)
            except RestyleError as error:
                return await self._failed(job, flight, error)
        except Exception as error:  # a defect
            _log.exception("job %s: unexpected %s", job.key, type(error).__name__)
            failure = RestyleError(f"unexpected {type(error).__name__}: {redact(error)}")
            return _unfinished(flight, failure, "failed")

    async def _submit(self, step: SubmitStep, flight: _Flight, job: Job, *, after: int) -> Submitted:
        flight.submitted = None  # an earlier attempt has failed
        try:
            submitted = await step(job, after=after)
        except RestyleError as error:
            if isinstance(error, _UNBILLED) and not error.may_be_billed:
                self._budget.unsent(job)
            # still holding the slot, or the next job would be refused as well
            await self._gate.stop_if_hopeless(job, error)
            raise
        self._gate.answered(fresh=submitted.fresh)
        flight.submitted = submitted
        flight.since = flight.since or time.monotonic()
        flight.paid = submitted.fresh or self._ledger.is_own(submitted.flow_run_id)
        if not flight.paid:  # stored already, or submitted by another run
            self._budget.unsent(job, submitted.attempt)
        flight.ever_paid |= flight.paid
        return submitted

    async def _submit_only(self, job: Job, carrier: Carrier, flight: _Flight) -> JobOutcome:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._slot(carrier))
            submitted = await self._submit(carrier.submit, flight, job, after=0)
            while await self._needs_another_attempt(job, submitted, carrier):
                submitted = await self._submit(carrier.submit, flight, job, after=submitted.attempt)
            if submitted.restyled:
                return _stored(submitted.restyled, flight)
            # the slot stays occupied until the prediction has ended, or the batch has
            slot = stack.pop_all()
        self._occupied.add(task := asyncio.create_task(_occupy(slot, carrier.poll, job, submitted)))
        task.add_done_callback(self._occupied.discard)
        return JobOutcome(
            "submitted",
            submitted.prediction_id,
            cost_usd=self._prices.cached(job.params) if flight.paid else 0.0,
            attempts=submitted.attempt,
        )

    async def _needs_another_attempt(self, job: Job, submitted: Submitted, carrier: Carrier) -> bool:
        """Whether a prediction that existed before has failed already, in a way that may be tried again."""
        if submitted.restyled or submitted.fresh:
            return False
        prediction = await self._client.result(submitted.prediction_id)
        return prediction.status in ENDED_BADLY and not (await carrier.poll(job, submitted)).completed

    @asynccontextmanager
    async def _slot(self, carrier: Carrier) -> AsyncIterator[None]:
        async with self._slots, carrier.slot():
            yield

    async def _failed(self, job: Job, flight: _Flight, error: RestyleError) -> JobOutcome:
        if flight.submitted or isinstance(error, NoSlotError):
            await self._gate.stop_if_hopeless(job, error)
        stopped = self._gate.stopped
        if isinstance(error, _IN_DOUBT):
            return _unfinished(flight, error, "open")
        if not flight.submitted and (
            isinstance(error, StoppedError) or (stopped and type(error) is type(stopped))
        ):
            # an earlier attempt may have been submitted and have failed
            return _unfinished(flight, stopped or error, "failed" if flight.ever_paid else "unsubmitted")
        if isinstance(error, PredictionFailedError):
            is_earlier = not flight.submitted and not self._ledger.is_own(error.flow_run_id)
            return _unfinished(flight, error, "given_up" if is_earlier else "failed")
        is_open = flight.submitted or error.may_be_billed
        outcome = _unfinished(flight, error, "open" if is_open else "failed")
        if flight.submitted and flight.paid:  # whatever kept its pictures from being stored
            return replace(outcome, cost_usd=self._prices.cached(job.params))
        return outcome


def _stored(restyled: Restyled, flight: _Flight) -> JobOutcome:
    stored_now, submitted = not restyled.cached, flight.submitted
    return JobOutcome.of_pictures(
        restyled,
        paid=flight.paid,
        attempts=submitted.attempt if submitted and stored_now else None,
        seconds=time.monotonic() - flight.since if flight.since and stored_now else None,
    )


def _unfinished(flight: _Flight, error: RestyleError, status: Status) -> JobOutcome:
    submitted = flight.submitted
    return JobOutcome.of_error(
        status,
        error,
        prediction_id=submitted.prediction_id if submitted else None,
        attempts=submitted.attempt if submitted else None,
    )


async def _occupy(slot: AsyncExitStack, poll: PollStep, job: Job, submitted: Submitted) -> None:
    async with slot:
        with suppress(RestyleError):  # settle meets it, too
            await poll(job, submitted)
