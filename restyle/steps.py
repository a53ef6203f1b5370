"""The three steps of a job, whole: submit, poll, download.

Each may be repeated, at any time, in any process, by any number of runners at once: the ledger sees
to it that a job is billed once. What happens to one that starts again:

- done: its side-car is returned, and WaveSpeedAI is not asked anything;
- submitted: the same prediction is joined;
- claimed by another runner: its submission is waited for;
- claimed by a runner that is gone, or submitted with the answer lost: the history is searched for the
  prediction, and only when there is none is the job submitted again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from restyle.client import WaveSpeedClient
from restyle.errors import (
    AmbiguousSubmissionError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    OutputError,
    PredictionFailedError,
    PredictionTimeoutError,
    RateLimitedError,
    RestyleError,
    UnavailableError,
    clean,
)
from restyle.history import History
from restyle.jobs import (
    Attempt,
    Cost,
    Job,
    Metadata,
    NsfwPolicy,
    Output,
    PredictionFacts,
    Restyled,
    RunInfo,
    SourceFacts,
    Times,
)
from restyle.ledger import Claim, DeadLetter, Failure, Ledger, OpenJob, Record, metadata_path, now
from restyle.models import ENDED_BADLY, Prediction, ReduxParams, ReduxRequest
from restyle.outputs import Collector
from restyle.pace import backoff, pace
from restyle.settings import Settings, get_settings
from restyle.sources import Publisher, identify, without_signature
from restyle.store import Store

MAX_ATTEMPTS = 3
# S3 tells whole seconds, so an age told by its clock may be this much too high.
CLOCK_GRAIN = timedelta(seconds=1)
# An API may for a moment not know a prediction, or know it without its outputs: so many answers in a row,
# over RESTYLE_RECONCILE_SECONDS at least, before that is believed.
DOUBTS = 3


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
"""What ``Steps`` asks before each claim: the job, the attempt's number, its price in USD where known."""


class SubmitStep(Protocol):
    """``submit`` of a job; ``after`` is the attempt known to have failed."""

    def __call__(self, job: Job, *, after: int) -> Awaitable[Submitted]:
        """Do it."""
        ...


class PollStep(Protocol):
    """``poll`` of what was submitted."""

    def __call__(self, job: Job, submitted: Submitted) -> Awaitable[Polled]:
        """Do it."""
        ...


class DownloadStep(Protocol):
    """``download`` of what is completed."""

    def __call__(self, job: Job, submitted: Submitted) -> Awaitable[Restyled]:
        """Do it."""
        ...


async def make_job(image: str, params: ReduxParams, variant: int, store: Store) -> Job:
    """Find out what is asked for, and refuse what cannot be done, before anything is spent.

    Args:
        image: https URL, ``s3://bucket/key``, or a local path.
        params: how to restyle it.
        variant: another picture of the same source: 0, 1, 2, …
        store: where the outputs go.

    Raises:
        SourceError: the source is missing, no image, or too big.
        InvalidRequestError: an explicit seed together with a variant, or a negative variant.
    """
    source = await identify(image, store)
    try:
        return Job(source=source, params=params, variant=variant)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"variant {variant}: {said}", field="variant") from None


async def carry_through(
    job: Job,
    submit: SubmitStep,
    poll: PollStep,
    download: DownloadStep,
    place: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
) -> Restyled:
    """Take a job from wherever it is to its end.

    Args:
        job: what to do.
        submit, poll, download: those of ``Steps``, or tasks around them.
        place: a place in flight, held from the submission until the prediction is known to have ended;
            the download needs none.
    """
    after = 0
    while True:
        async with place():
            submitted = await submit(job, after=after)
            if submitted.restyled:
                return submitted.restyled
            polled = await poll(job, submitted)
        if polled.completed:
            return await download(job, submitted)
        after = submitted.attempt


@dataclass
class _Ours:
    """A claim of this call's own.

    ``since`` is taken before the put was sent, on both clocks: a machine that slept is caught by the
    one, a clock that was set by the other.
    """

    attempt: int
    nonce: str
    since: tuple[float, float]

    @property
    def age(self) -> float:
        """Seconds since the claim was made, at the most."""
        monotonic, wall = self.since
        return max(time.monotonic() - monotonic, time.time() - wall)


class Steps:
    """The steps, on one client and one store.

    Args:
        client: the API.
        store: where the ledger and the outputs are.
        settings: times; by default those of the environment.
        admit: awaited just before each claim with the job, the attempt's number and its price in USD (None
            where it is not known). It paces, and may raise a RestyleError to refuse: then nothing has been
            claimed or sent. Asked again, with the same number, where the claim went to another runner or
            was given back after a 429.

    Raises:
        ConfigurationError: the client's submit timeout is so long that two runners could submit one job.
    """

    def __init__(
        self,
        client: WaveSpeedClient,
        store: Store,
        settings: Settings | None = None,
        *,
        admit: Admit | None = None,
    ) -> None:
        self._client = client
        self._store = store
        self._settings = settings or get_settings()
        self._admit = admit
        if client.submit_timeout >= self._settings.lease_seconds / 2:
            raise ConfigurationError(
                f"submit_timeout ({client.submit_timeout:g} s) must be less than half of "
                f"RESTYLE_LEASE_SECONDS ({self._settings.lease_seconds:g} s): otherwise two runners could "
                "submit one job"
            )
        self._ledger = Ledger(store)
        self._history = History(client)
        self._publisher = Publisher(client, store)
        self._prices: dict[str, float | None] = {}
        self._completed: dict[str, Prediction] = {}

    # -- submit ---------------------------------------------------------------------------------

    async def submit(
        self,
        job: Job,
        *,
        run: RunInfo,
        max_cost_usd: float | None = None,
        nsfw: NsfwPolicy = "keep",
        retry_failed: bool = False,
        after: int = 0,
        webhook_url: str | None = None,
    ) -> Submitted:
        """Make sure that the job is submitted, once, and return its prediction.

        Args:
            job: what to do.
            run: who does it.
            max_cost_usd: refuse if the price, or the price on this balance, is more than can be paid.
            nsfw: what will be done with flagged outputs, for whoever finishes the job if this run cannot.
            retry_failed: go again where the job has failed for good earlier.
            after: the attempt that is known to have failed; 0 for none.
            webhook_url: https URL that WaveSpeedAI tells when the prediction is ready.

        Raises:
            PredictionFailedError: the job has failed for good.
            BudgetExceededError, InsufficientCreditsError: refused before anything was sent.
            AuthenticationError, InvalidRequestError, NotFoundError: WaveSpeedAI refused the request.
            RateLimitedError, UnavailableError: WaveSpeedAI cannot take or tell anything now.
            SourceError: the source cannot be used.
            StoreError, UnsafeStoreError: the store cannot be relied on; nothing was sent.
        """
        await self._store.ready()
        give_up = time.monotonic() + self._settings.poll_timeout_seconds
        waits = backoff(first=0.2, most=2.0)
        forgiven: int | None = None
        spent = 0  # attempts of our own from which nothing can come any more
        while True:
            if done := await self._done(job):
                return done
            letter = await self._ledger.dead(job.key)
            open_job = await self._ledger.open(job.key)
            if forgiven is None:
                forgiven = _forgiven(letter, open_job, run, after, retry_failed=retry_failed)
            if letter and letter.last_attempt > forgiven:
                raise letter.as_error()

            newest = max(open_job.latest, forgiven)
            if newest > forgiven and newest > after and newest in open_job.recorded:
                if joined := await self._join(job, newest, forgiven):
                    return joined
                continue
            # Somebody's claim without a prediction: theirs while it is young, an orphan afterwards.
            orphan = (
                newest in open_job.claimed
                and newest not in open_job.recorded
                and newest > max(forgiven, spent)
            )
            if orphan:
                lease = await self._lease(job.key, newest)
                if self._store.now() - open_job.claimed[newest] < lease:
                    await asyncio.sleep(next(waits))
                    continue
            if newest - forgiven >= MAX_ATTEMPTS:
                return await self._exhausted(job, open_job, forgiven, newest, letter)

            attempt = max(newest, after) + 1
            request = await self._affordable_request(job, max_cost_usd)
            if self._admit:
                await self._admit(job, attempt, self._known_price(request))
            ours = await self._claim(job, attempt, request, run, nsfw)
            if ours is None:
                await asyncio.sleep(next(waits))
                continue
            if orphan:
                await self._outwait(job.key, newest, attempt, lease)
                if slow := await self._ledger.recorded(job.key, newest):
                    slow = await self._ledger.record(job.key, attempt, slow)
                    return self._submitted(job, attempt, slow, forgiven, run.flow_run_id, fresh=False)
                if found := await self._search(job, open_job, attempt, letter):
                    return await self._record(job, attempt, found, forgiven, run.flow_run_id, fresh=False)
            try:
                if not await self._may_post(job, ours, forgiven):
                    spent = attempt
                    continue
                if letter and (found := await self._revived(letter)):
                    return await self._record(job, attempt, found, forgiven, run.flow_run_id, fresh=False)
                sent = time.monotonic()
                prediction = await self._client.submit(
                    request, webhook_url=webhook_url, in_time=partial(self._young, ours)
                )
            except AmbiguousSubmissionError:
                found = await self._search(job, open_job, attempt, letter, sent=sent)
                if found is None:
                    spent = attempt
                    continue
                return await self._record(job, attempt, found, forgiven, run.flow_run_id, fresh=False)
            except RateLimitedError as error:
                await self._ledger.release(job.key, attempt)
                pause = error.retry_after or next(waits)
                if time.monotonic() + pause > give_up:
                    raise
                await asyncio.sleep(pause)
            except RestyleError:  # a clean refusal, or nothing was sent
                await self._ledger.release(job.key, attempt)
                raise
            else:
                return await self._record(job, attempt, prediction, forgiven, run.flow_run_id, fresh=True)

    async def _lease(self, key: str, attempt: int) -> timedelta:
        """How long a claim holds: as long as its owner relies on it, and never less than ours would."""
        claim = await self._ledger.claimed(key, attempt)
        if claim:
            self._same_api(claim.base_url, key)
        longest = max(self._settings.lease_seconds, claim.lease_seconds if claim else 0)
        return timedelta(seconds=longest) + CLOCK_GRAIN

    def _same_api(self, base_url: str, key: str) -> None:
        """Only the API that a job was submitted to knows what became of it."""
        if base_url != self._client.base_url:
            raise ConfigurationError(
                f"this job is open at {base_url} and this run is told to use {self._client.base_url}: "
                "finish it there, or use another output",
                job_key=key,
            )

    def _young(self, ours: _Ours) -> bool:
        return ours.age < self._settings.lease_seconds / 2

    async def _done(self, job: Job) -> Submitted | None:
        metadata = await self._ledger.done(job)
        if metadata is None:
            return None
        await self._sweep(job)  # a runner that was killed at the very end left its claim behind
        restyled = self._restyled(job, metadata, cached=True)
        return Submitted(job_key=job.key, prediction_id=metadata.prediction.id, restyled=restyled)

    async def _sweep(self, job: Job) -> None:
        """Remove what is still open of a job that is done."""
        left = await self._ledger.open(job.key)
        await self._ledger.close(job.key, left, left.latest, done=True)

    async def _join(self, job: Job, attempt: int, forgiven: int) -> Submitted | None:
        record = await self._ledger.recorded(job.key, attempt)
        if record is None:
            return None
        self._same_api(record.base_url, job.key)
        claim = await self._ledger.claimed(job.key, attempt)
        flow_run_id = claim.flow_run_id if claim else None
        return self._submitted(job, attempt, record, forgiven, flow_run_id, fresh=False)

    def _submitted(
        self,
        job: Job,
        attempt: int,
        record: Record,
        forgiven: int,
        flow_run_id: str | None,
        *,
        fresh: bool,
    ) -> Submitted:
        return Submitted(
            job_key=job.key,
            prediction_id=record.prediction_id,
            attempt=attempt,
            flow_run_id=flow_run_id,
            fresh=fresh,
            last_attempt=attempt - forgiven >= MAX_ATTEMPTS,
        )

    async def _affordable_request(self, job: Job, max_cost_usd: float | None) -> ReduxRequest:
        """The request, with a URL that can be fetched, once it is known that it may be paid."""
        draft = job.request(without_signature(job.source.location))
        price = await self._price(draft, must=max_cost_usd is not None)
        if max_cost_usd is not None and price is not None:
            if price > max_cost_usd:
                raise BudgetExceededError(
                    f"max_cost_usd {max_cost_usd:g}: this job costs {price:g} USD: "
                    "raise the limit or ask for less",
                    job_key=job.key,
                )
            balance = await self._client.balance()
            if price > balance:
                raise InsufficientCreditsError(
                    f"this job costs {price:g} USD and the balance is {balance:g} USD: "
                    "top up the WaveSpeed account",
                    job_key=job.key,
                )
        return job.request(await self._publisher.url(job.source))

    def _known_price(self, request: ReduxRequest) -> float | None:
        return self._prices.get(request.model_dump_json(exclude={"image", "seed"}))

    async def _price(self, request: ReduxRequest, *, must: bool) -> float | None:
        """What it costs, asked once for each set of parameters; None where it need not be known and isn't."""
        kind = request.model_dump_json(exclude={"image", "seed"})
        if kind not in self._prices or (must and self._prices[kind] is None):
            try:
                quote = await self._client.price(request)
                if quote.currency != "USD" and must:
                    raise BudgetExceededError(
                        f"max_cost_usd cannot be kept: the price is told in {quote.currency}"
                    )
                self._prices[kind] = quote.usd if quote.currency == "USD" else None
            except RestyleError:
                if must:
                    raise
                self._prices[kind] = None
        return self._prices[kind]

    async def _claim(
        self, job: Job, attempt: int, request: ReduxRequest, run: RunInfo, nsfw: NsfwPolicy
    ) -> _Ours | None:
        ours = _Ours(attempt, uuid.uuid4().hex, (time.monotonic(), time.time()))
        claim = Claim(
            nonce=ours.nonce,
            flow_run_id=run.flow_run_id,
            claimed_at=now(),
            lease_seconds=self._settings.lease_seconds,
            base_url=self._client.base_url,
            request=request.model_copy(update={"image": without_signature(request.image)}),
            job=_unsigned(job),
            nsfw=nsfw,
        )
        return ours if await self._ledger.claim(job.key, attempt, claim) else None

    async def _outwait(self, key: str, orphan: int, ours: int, lease: timedelta) -> None:
        """Wait until the orphaned claim is a lease older than ours, so that nothing of it still flies."""
        made = time.monotonic()
        while True:
            old, new = await self._ledger.claimed_at(key, orphan), await self._ledger.claimed_at(key, ours)
            if old is None or new is None:
                return
            left = (lease - (new - old)).total_seconds() - (time.monotonic() - made)
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def _may_post(self, job: Job, ours: _Ours, forgiven: int) -> bool:
        """Whether the job is still nobody's but ours, not done meanwhile, and our claim young."""
        if await self._ledger.done(job):
            return False
        letter = await self._ledger.dead(job.key)
        open_job = await self._ledger.open(job.key)
        if letter and letter.last_attempt > forgiven:
            await self._ledger.close(job.key, open_job, letter.last_attempt, done=False)
            return False
        if open_job.latest != ours.attempt or ours.attempt not in open_job.claimed:
            return False
        return self._young(ours)

    async def _revived(self, letter: DeadLetter) -> Prediction | None:
        """What the job was given up with, if it has come to something after all: it is paid for."""
        if letter.error.prediction_id is None:
            return None
        try:
            prediction = await self._client.result(letter.error.prediction_id)
        except NotFoundError:
            return None
        useless = prediction.terminal and not prediction.outputs
        return None if useless or prediction.status in ENDED_BADLY else prediction

    async def _search(
        self,
        job: Job,
        open_job: OpenJob,
        attempt: int,
        letter: DeadLetter | None,
        sent: float | None = None,
    ) -> Prediction | None:
        """Look for what the attempts so far may have created.

        Args:
            job: whose.
            open_job: what was there before the newest attempt.
            attempt: the newest attempt.
            letter: an earlier dead letter; its prediction is of no use.
            sent: when a submission of ours was sent (monotonic clock). Until its time is over the API may
                still act on it, so that long the search goes on.
        """
        claims = [await self._ledger.claimed(job.key, n) for n in sorted({*open_job.claimed, attempt})]
        there = [claim for claim in claims if claim]
        # the earliest by any clock that has a say
        times = [*open_job.claimed.values(), *(claim.claimed_at for claim in there), self._store.now()]
        seconds = self._settings.reconcile_seconds
        if sent is not None:
            seconds += max(0.0, self._client.submit_timeout - (time.monotonic() - sent))
        useless = frozenset({letter.error.prediction_id or ""} if letter else ())
        return await self._history.search([claim.request for claim in there], min(times), seconds, useless)

    async def _record(
        self,
        job: Job,
        attempt: int,
        prediction: Prediction,
        forgiven: int,
        flow_run_id: str | None,
        *,
        fresh: bool,
    ) -> Submitted:
        price = self._known_price(job.request("-"))
        record = Record(
            prediction_id=prediction.id,
            submitted_at=prediction.created_at,
            quoted_usd=price,
            base_url=self._client.base_url,
        )
        record = await self._ledger.record(job.key, attempt, record)
        return self._submitted(job, attempt, record, forgiven, flow_run_id, fresh=fresh)

    async def _exhausted(
        self,
        job: Job,
        open_job: OpenJob,
        forgiven: int,
        newest: int,
        letter: DeadLetter | None,
    ) -> Submitted:
        """No attempt is left. What was paid for and lost is still looked for before the job is given up."""
        if newest not in open_job.recorded and (found := await self._search(job, open_job, newest, letter)):
            claim = await self._ledger.claimed(job.key, newest)
            flow_run_id = claim.flow_run_id if claim else None
            return await self._record(job, newest, found, forgiven, flow_run_id, fresh=False)
        raise await self._fail(
            job,
            newest,
            Failure(
                type="AttemptsUsedUp",
                message=f"{MAX_ATTEMPTS} attempts came to nothing: "
                "look at the account's history, then use retry_failed",
            ),
        )

    # -- poll -----------------------------------------------------------------------------------

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """Wait until the prediction is ready.

        Returns:
            Completed; or failed in a way that may be tried again, so that ``submit(after=…)`` comes next.

        Raises:
            PredictionFailedError: the job has failed for good; its dead letter is written.
            PredictionTimeoutError: not ready within the local timeout; the job stays open.
            AuthenticationError: the key is refused.
        """
        prediction_id = submitted.prediction_id
        try:
            prediction = await self._watch(submitted)
        except NotFoundError:
            failure = _lost(prediction_id)
        else:
            if prediction.status == "completed" and prediction.outputs:
                self._completed[prediction_id] = prediction
                return Polled(
                    prediction_id=prediction_id, completed=True, inference_ms=prediction.inference_ms
                )
            if _may_go_again(prediction) and not submitted.last_attempt:
                return Polled(prediction_id=prediction_id, completed=False, error=_ending(prediction))
            failure = _failure(prediction)
        if await self._ledger.done(job):  # by another runner, earlier
            return Polled(prediction_id=prediction_id, completed=True)
        raise await self._fail(job, submitted.attempt, failure)

    async def _watch(self, submitted: Submitted) -> Prediction:
        """Ask for the result until it is final.

        Raises:
            NotFoundError: the API has not known the prediction for long enough to be believed.
            PredictionTimeoutError: it was not ready in time.
        """
        start = time.monotonic()
        doubts = 0  # answers in a row that may be a fresh prediction's: unknown, or outputs still to come
        doubted = start
        waits = pace.waits(fresh=submitted.fresh)
        pause = next(waits)
        while True:
            left = start + self._settings.poll_timeout_seconds - time.monotonic()
            if left <= 0:
                raise PredictionTimeoutError(
                    f"prediction {submitted.prediction_id} was not ready after "
                    f"{self._settings.poll_timeout_seconds:g} s: it goes on; run the job again to resume it",
                    job_key=submitted.job_key,
                    prediction_id=submitted.prediction_id,
                )
            await asyncio.sleep(min(pause, left))
            pause = next(waits)
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
                pause = max(pause, error.retry_after or 0)
            else:
                if prediction.status == "completed" and not prediction.outputs and not sure:
                    doubts += 1
                elif prediction.terminal:
                    if submitted.fresh and prediction.status == "completed":
                        took = (prediction.inference_ms or 0) / 1000
                        pace.learn(took or time.monotonic() - start)
                    return prediction
                else:
                    doubts = 0

    async def _fail(self, job: Job, attempt: int, failure: Failure) -> PredictionFailedError:
        """Write the job's dead letter, close the job, and return the error that tells of it."""
        open_job = await self._ledger.open(job.key)
        claim = await self._ledger.claimed(job.key, attempt)
        letter = DeadLetter(
            job_key=job.key,
            last_attempt=attempt,
            error=failure,
            flow_run_id=claim.flow_run_id if claim else None,
            source=_source_facts(job),
            request=job.request(without_signature(job.source.location)),
            variant=job.variant,
            attempts=await self._attempts(job, open_job, attempt),
            failed_at=now(),
        )
        letter = await self._ledger.bury(letter)
        await self._ledger.close(job.key, open_job, letter.last_attempt, done=False)
        return letter.as_error()

    async def _attempts(self, job: Job, open_job: OpenJob, last: int) -> list[Attempt]:
        """The attempts as the ledger has them, with what WaveSpeedAI says of those that failed."""
        told = []
        for number, claimed_at in sorted(open_job.claimed.items()):
            if number > last:
                break
            record = await self._ledger.recorded(job.key, number) if number in open_job.recorded else None
            attempt = Attempt(claimed_at=claimed_at, prediction_id=record.prediction_id if record else None)
            if number < last:
                attempt.error = await self._why(record.prediction_id) if record else "no answer was recorded"
            told.append(attempt)
        return told

    async def _why(self, prediction_id: str) -> str:
        try:
            return _ending(await self._client.result(prediction_id))
        except RestyleError as error:
            return error.message

    # -- download -------------------------------------------------------------------------------

    async def download(
        self, job: Job, submitted: Submitted, *, run: RunInfo, nsfw: NsfwPolicy = "keep"
    ) -> Restyled:
        """Fetch, verify and store the outputs of a completed prediction, and close the job.

        Args:
            job: what was asked for.
            submitted: its prediction.
            run: who does it.
            nsfw: what to do with flagged outputs: keep them, put them under ``quarantine/``, or drop them.

        Raises:
            OutputError: an output cannot be had whole; the job stays open.
            RestyleError: the API or the store cannot be used now; the job stays open.
        """
        key, attempt, prediction_id = job.key, submitted.attempt, submitted.prediction_id
        if there := await self._ledger.done(job):
            await self._sweep(job)  # a runner that slept through it all has recorded its prediction since
            return self._restyled(job, there, cached=False)
        try:
            prediction = self._completed.pop(prediction_id, None) or await self._client.result(prediction_id)
            completed_at = now()
            collector = Collector(self._client, self._store, job, prediction, run, nsfw)
            outputs = await collector.collect()
        except NotFoundError:  # polling tells whether it is lost for good
            raise OutputError(
                f"WaveSpeed does not know prediction {prediction_id} at the moment: run the job again",
                job_key=key,
                prediction_id=prediction_id,
            ) from None
        open_job = await self._ledger.open(key)
        claim, record = await self._ledger.claimed(key, attempt), await self._ledger.recorded(key, attempt)
        usd = record.quoted_usd if record else None
        metadata = Metadata(
            job_key=key,
            variant=job.variant,
            source=_source_facts(job),
            request=claim.request if claim else job.request(without_signature(job.source.location)),
            prediction=PredictionFacts(
                id=prediction_id,
                created_at=prediction.created_at,
                inference_ms=prediction.inference_ms,
                has_nsfw_contents=prediction.has_nsfw_contents,
            ),
            outputs=outputs,
            cost=Cost(usd=usd, basis=None if usd is None else "quoted"),
            attempts=await self._attempts(job, open_job, attempt),
            run=run,
            times=Times(
                claimed=open_job.claimed.get(attempt),
                submitted=open_job.recorded.get(attempt),
                completed=completed_at,
                stored=now(),
            ),
        )
        metadata = await self._ledger.finish(job, metadata, collector.object_metadata)
        await self._ledger.close(key, open_job, attempt, done=True)
        return self._restyled(job, metadata, cached=False)

    def _restyled(self, job: Job, metadata: Metadata, *, cached: bool) -> Restyled:
        return Restyled(
            job_key=job.key,
            prediction_id=metadata.prediction.id,
            cached=cached,
            cost_usd=0.0 if cached else metadata.cost.usd,
            seed=metadata.request.seed,
            outputs=[
                Output(
                    uri=self._store.uri_of(facts.key) if facts.key else None,
                    **facts.model_dump(exclude={"key"}),
                )
                for facts in metadata.outputs
            ],
            metadata_uri=self._store.uri_of(metadata_path(job)),
        )


def _forgiven(
    letter: DeadLetter | None, open_job: OpenJob, run: RunInfo, after: int, *, retry_failed: bool
) -> int:
    """The last attempt that a dead letter speaks of and that this run may go on from; 0 for none."""
    if letter is None:
        return 0
    last = letter.last_attempt
    if open_job.latest > last and open_job.latest in open_job.recorded:
        return last  # somebody was told to go again and has submitted it: join
    if not retry_failed or (after and after <= last):
        return 0
    # A run that failed the job itself was told once to go again, however often it is retried.
    return 0 if run.flow_run_id and letter.flow_run_id == run.flow_run_id else last


def _may_go_again(prediction: Prediction) -> bool:
    """Whether WaveSpeedAI says that another attempt may succeed: codes 5xxx and timeouts."""
    return prediction.status == "timeout" or (
        prediction.status == "failed" and 5000 <= prediction.code < 6000
    )


def _ending(prediction: Prediction) -> str:
    if prediction.status == "completed":
        said = "completed without outputs"
    else:
        said = f"{prediction.status}: {clean(prediction.error) or 'no reason given'}"
    code = f" (code {prediction.code})" if prediction.code else ""
    return f"prediction {prediction.id} {said}{code}"


def _failure(prediction: Prediction) -> Failure:
    return Failure(
        type="PredictionFailed",
        message=_ending(prediction),
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


def _unsigned(job: Job) -> Job:
    """The job with nothing secret in it, to be written down."""
    location = job.source.location
    if location.lower().startswith(("https://", "http://")):
        location = without_signature(location)
    return job.model_copy(update={"source": job.source.model_copy(update={"location": location})})


def _source_facts(job: Job) -> SourceFacts:
    return SourceFacts(uri=job.source.uri, identity=job.source.identity, sha256=job.source.sha256)
