"""The first step: a job is claimed and submitted, once, or its prediction is found."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from prefect_wavespeed import metrics
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction
from prefect_wavespeed.errors import (
    AmbiguousSubmissionError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    NotFoundError,
    RateLimitedError,
    RestyleError,
)
from prefect_wavespeed.job import Job, NsfwPolicy, RunInfo
from prefect_wavespeed.ledger.ledger import now
from prefect_wavespeed.ledger.records import Claim, DeadLetter, Failure, Metadata, OpenJob, Record
from prefect_wavespeed.retry import backoff
from prefect_wavespeed.steps.attempts import MAX_ATTEMPTS, Admit, Mine, Shared, Submitted
from prefect_wavespeed.steps.collect_outputs import restyled_from
from prefect_wavespeed.urls import without_signature

# S3 tells whole seconds, so an age told by its clock may be this much too high.
CLOCK_GRAIN = timedelta(seconds=1)


@dataclass
class _Ours:
    """A claim of this call's own.

    ``since`` is taken before the put was sent, on both clocks: a machine that slept is caught by the
    one, a clock that was set by the other.
    """

    attempt: int
    claim: Claim
    since: tuple[float, float]

    @property
    def age(self) -> float:
        """Seconds since the claim was made, at the most."""
        monotonic, wall = self.since
        return max(time.monotonic() - monotonic, time.time() - wall)


class Submitter:
    """Submits.

    Args:
        shared: what it works with.
        admit: asked before each claim.
    """

    def __init__(self, shared: Shared, admit: Admit | None) -> None:
        self._shared = shared
        self._client = shared.client
        self._store = shared.store
        self._settings = shared.settings
        self._ledger = shared.ledger
        self._history = shared.history
        self._publisher = shared.publisher
        self._prices = shared.prices
        self._memory = shared.memory
        self._admit = admit

    async def look(self, job: Job) -> Submitted | None:
        """``StepSet.look``."""
        await self._store.ensure_conditional_put()
        metadata, letter, open_job = await self._ledger.look(job)
        if metadata:
            return await self._done(job, metadata, open_job)
        if letter is None and not open_job.latest:
            self._memory.unseen(job)
        return None

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
        """``StepSet.submit``."""
        await self._store.ensure_conditional_put()
        give_up = time.monotonic() + self._settings.poll_timeout_seconds
        waits = backoff(first=0.2, most=2.0)
        spent = 0  # attempts of our own from which nothing can come any more
        # What was seen to be new is claimed unseen: the look that counts comes after the claim anyway.
        unseen = self._memory.take_unseen(job) and not after
        first_told: int | None = None
        while True:
            if unseen:
                unseen, letter, open_job, forgiven = False, None, OpenJob(), 0
            else:
                metadata, letter, open_job = await self._ledger.look(job)
                if metadata:
                    return await self._done(job, metadata, open_job)
                if first_told is None:
                    first_told = _forgiven(letter, open_job, run, after, retry_failed=retry_failed)
                forgiven = first_told
            if letter and (
                letter.last_attempt > forgiven or _untried(letter, open_job, after, retry_failed=retry_failed)
            ):
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
                await self._admit(job, attempt, self._prices.cached(request))
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
                seen = await self._may_post(job, ours, forgiven)
                if seen is None:
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
                answered = time.monotonic()
                metrics.SPENT.inc(self._prices.cached(request) or 0)
                metrics.RETRIES.inc(attempt > 1)
                submitted = await self._record(
                    job, attempt, prediction, forgiven, run.flow_run_id, fresh=True
                )
                self._remember(job, submitted, ours, seen, prediction, answered)
                return submitted

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

    async def _done(self, job: Job, metadata: Metadata, left: OpenJob) -> Submitted:
        # a runner that was killed at the very end left its claim behind
        await self._ledger.close(job.key, left, left.latest, done=True)
        metrics.FOUND.inc()
        restyled = restyled_from(self._store, job, metadata, cached=True)
        return Submitted(job_key=job.key, prediction_id=metadata.prediction.id, restyled=restyled)

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
        price = await self._prices.usd(draft, required=max_cost_usd is not None)
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

    async def _claim(
        self, job: Job, attempt: int, request: ReduxRequest, run: RunInfo, nsfw: NsfwPolicy
    ) -> _Ours | None:
        since = (time.monotonic(), time.time())
        claim = Claim(
            nonce=uuid.uuid4().hex,
            flow_run_id=run.flow_run_id,
            claimed_at=now(),
            lease_seconds=self._settings.lease_seconds,
            base_url=self._client.base_url,
            request=request.model_copy(update={"image": without_signature(request.image)}),
            job=_unsigned(job),
            nsfw=nsfw,
        )
        won = await self._ledger.claim(job.key, attempt, claim)
        return _Ours(attempt, claim, since) if won else None

    async def _outwait(self, key: str, orphan: int, ours: int, lease: timedelta) -> None:
        """Wait until the orphaned claim is a lease older than ours, so that nothing of it still flies."""
        made = time.monotonic()
        while True:
            old, new = (
                await self._ledger.claimed_at(key, orphan),
                await self._ledger.claimed_at(key, ours),
            )
            if old is None or new is None:
                return
            left = (lease - (new - old)).total_seconds() - (time.monotonic() - made)
            if left <= 0:
                return
            await asyncio.sleep(left)

    async def _may_post(self, job: Job, ours: _Ours, forgiven: int) -> OpenJob | None:
        """What is open, if the job is still nobody's but ours, not done meanwhile, and our claim young."""
        metadata, letter, open_job = await self._ledger.look(job)
        if metadata:
            return None
        if letter and letter.last_attempt > forgiven:
            await self._ledger.close(job.key, open_job, letter.last_attempt, done=False)
            return None
        if open_job.latest != ours.attempt or ours.attempt not in open_job.claimed:
            return None
        return open_job if self._young(ours) else None

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
        found = await self._history.search([claim.request for claim in there], min(times), seconds, useless)
        if found:
            metrics.adopted(self._prices.cached(job.params))
        return found

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
        record = self._to_record(job, prediction)
        record = await self._ledger.record(job.key, attempt, record)
        return self._submitted(job, attempt, record, forgiven, flow_run_id, fresh=fresh)

    def _to_record(self, job: Job, prediction: Prediction) -> Record:
        return Record(
            prediction_id=prediction.id,
            submitted_at=prediction.created_at,
            quoted_usd=self._prices.cached(job.params),
            base_url=self._client.base_url,
        )

    def _remember(
        self,
        job: Job,
        submitted: Submitted,
        ours: _Ours,
        seen: OpenJob,
        prediction: Prediction,
        answered: float,
    ) -> None:
        """Keep what the download needs to know of a first attempt."""
        if submitted.attempt == 1 and not seen.recorded and submitted.prediction_id == prediction.id:
            record = self._to_record(job, prediction)
            mine = Mine(ours.claim, record, seen.claimed[1], self._store.now(), answered)
            self._memory.submitted(job, mine)

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
        raise await self._shared.fail(
            job,
            newest,
            Failure(
                type="AttemptsUsedUp",
                message=f"{MAX_ATTEMPTS} attempts came to nothing: "
                "look at the account's history, then use retry_failed",
            ),
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


def _untried(letter: DeadLetter, open_job: OpenJob, after: int, *, retry_failed: bool) -> bool:
    """Whether the job was given up before any attempt, and nobody has gone on with it since."""
    return not (letter.last_attempt or open_job.latest or after or retry_failed)


def _unsigned(job: Job) -> Job:
    """The job with nothing secret in it, to be written down."""
    location = job.source.location
    if location.lower().startswith(("https://", "http://")):
        location = without_signature(location)
    if location == job.source.location:
        return job
    return job.model_copy(update={"source": job.source.model_copy(update={"location": location})})
