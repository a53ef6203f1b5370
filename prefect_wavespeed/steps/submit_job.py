"""The first step: a job is claimed and submitted, once, or its prediction is found.

``ledger/rules.py`` decides what to do next; this file looks, asks, and does it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from prefect_wavespeed import metrics
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.pacing import Turn
from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction
from prefect_wavespeed.errors import (
    AmbiguousSubmissionError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    NotFoundError,
    RateLimitedError,
    RestyleError,
    UnansweredSubmissionError,
    UnsureSubmissionError,
)
from prefect_wavespeed.job import Job, NsfwRules, RunInfo
from prefect_wavespeed.ledger import moves, rules
from prefect_wavespeed.ledger.ledger import Look, now
from prefect_wavespeed.ledger.records import Claim, Failure, OpenJob, Record
from prefect_wavespeed.retry import backoff
from prefect_wavespeed.steps.attempts import Admit, Submitted
from prefect_wavespeed.steps.context import StepContext
from prefect_wavespeed.steps.memory import FirstAttempt
from prefect_wavespeed.urls import without_signature

_URL_SECONDS = 300.0  # how old a picture's URL may be when it is submitted: signatures and uploads expire


class Submission:
    """One call of ``StepSet.submit``, whose arguments these are."""

    def __init__(
        self,
        context: StepContext,
        job: Job,
        *,
        run: RunInfo,
        admit: Admit | None,
        max_cost_usd: float | None,
        nsfw: NsfwRules,
        retry_failed: bool,
        after: int,
        webhook_url: str | None,
    ) -> None:
        self._context = context
        self._ledger = context.ledger
        self._job = job
        self._run = run
        self._admit = admit
        self._max_cost_usd = max_cost_usd
        self._nsfw = nsfw
        self._webhook_url = webhook_url
        self._half_lease = context.settings.lease_seconds / 2
        self._runner = rules.Runner(self._half_lease, retry_failed=retry_failed, failed=after)
        self._look = Look(None, None, OpenJob())
        self._state = rules.JobState()
        self._begun = False
        self._first_seen: dict[int, float] = {}  # each claim, on the monotonic clock
        # The claim that is held, the request to send under it, and when it was made by two clocks: one shows
        # that the machine slept, the other that its time was set.
        self._claim: Claim | None = None
        self._request: ReduxRequest | None = None
        self._claimed_at = (0.0, 0.0)
        self._sent_at = 0.0
        self._prediction: Prediction | Record | None = None
        self._answered_at: float | None = None  # when a submission of this call was answered
        self._error: RestyleError | None = None  # why the job may have to be left open
        self._unanswered: list[str] = []  # what came instead of answers
        self._waits = backoff(first=0.2, most=2.0)
        self._has_new_url = False  # since WaveSpeedAI could not fetch the picture
        self._turn: Turn | None = None  # to submit, held from before the claim until the POST is answered

    async def run(self) -> Submitted:
        """Do what the rules say until the job has a prediction, or an error ends it."""
        await self._context.store.ensure_conditional_put()
        try:
            while True:
                if submitted := await self._act(await self._next_move()):
                    return submitted
        except (RestyleError, asyncio.CancelledError) as error:
            if isinstance(error, RestyleError) and self._runner.held:
                error.may_be_billed |= self._runner.held.sent
            await self._give_back()
            raise
        finally:
            self._end_turn()

    async def _next_move(self) -> moves.Move:
        held = self._runner.held
        # After a POST a known prediction is recorded, and a lost one searched for, before anything is read.
        if held is None or not (held.sent or held.has_prediction):
            await self._see()
        return rules.next_move(self._state, self._aged())

    async def _act(self, move: moves.Move) -> Submitted | None:
        """Carry out a move. Returns the job's prediction once it has one."""
        match move:
            case moves.Done():
                return await self._context.stored(self._job, self._look)
            case moves.Failed():
                await self._fail()
            case moves.Join(attempt):
                return await self._join(attempt)
            case moves.Wait(seconds):
                await asyncio.sleep(next(self._waits) if seconds is None else seconds)
            case moves.Claim(attempt, takes_over):
                await self._make_claim(attempt, takes_over)
            case moves.Search():
                await self._search()
            case moves.AskForOldPrediction():
                await self._ask_for_old_prediction()
            case moves.Post():
                await self._post()
            case moves.Record():
                return await self._record()
            case moves.NextAttempt():
                self._end_turn()
                self._runner, self._claim = self._runner.after_attempt(), None
            case moves.GiveUp(attempt):
                raise await self._give_up(attempt)
            case moves.LeaveOpen():  # ``run`` gives the claim back where it may
                error = self._error or await self._context.in_doubt(self._job.key, self._state.doubtful)
                error.may_be_billed = True  # by an earlier attempt: the job is open
                raise error
        return None

    # -- looking ----------------------------------------------------------------------------------

    async def _see(self) -> None:
        """Look at the job, unless a listing showed nothing of it: that is claimed unseen.

        The look that counts comes after the claim anyway.
        """
        is_new = not self._begun and not self._runner.failed and self._context.memory.take_new(self._job)
        self._look = Look(None, None, OpenJob()) if is_new else await self._ledger.look(self._job)
        lease = self._context.lease_of(await self._abandoned_claim())
        seen_at = time.monotonic()
        watched = {n: seen_at - self._first_seen.setdefault(n, seen_at) for n in self._look.open_job.claimed}
        self._state = self._context.job_state(self._look, lease, self._run.flow_run_id, watched)
        if not self._begun:
            self._runner, self._begun = rules.begin(self._state, self._runner), True

    async def _abandoned_claim(self) -> Claim | None:
        """The newest claim, if it is another runner's without a prediction: it says how long it holds."""
        open_job, held, letter = self._look.open_job, self._runner.held, self._look.letter
        newest = open_job.latest
        has_ended = self._look.side_car or (letter and letter.last_attempt >= newest)
        if has_ended or newest in open_job.recorded or not newest or (held and held.attempt == newest):
            return None
        claim = await self._ledger.read_claim(self._job.key, newest)
        if claim:
            self._check_api(claim.base_url)
        return claim

    def _aged(self) -> rules.Runner:
        """The runner, with its claim as old as it is now."""
        held = self._runner.held
        return replace(self._runner, held=replace(held, age=self._age())) if held else self._runner

    def _age(self) -> float:
        monotonic, wall = self._claimed_at
        return max(time.monotonic() - monotonic, time.time() - wall)

    def _is_young(self) -> bool:
        return self._age() < self._half_lease

    def _check_api(self, base_url: str) -> None:
        """Refuse another API than the one the job was submitted to: only that one knows the prediction."""
        if base_url != self._context.client.base_url:
            raise ConfigurationError(
                f"base_url {self._context.client.base_url}: this job is open at {base_url}: "
                "finish it there, or use another output",
                job_key=self._job.key,
            )

    # -- claiming and posting ---------------------------------------------------------------------

    async def _make_claim(self, attempt: int, takes_over: int | None) -> None:
        request, made_at = await self._affordable_request(), time.monotonic()
        if self._admit:
            await self._admit(self._job, attempt, self._context.prices.cached(request))
        self._turn = await self._context.client.pace.turn(self._context.settings.poll_timeout_seconds)
        if time.monotonic() - made_at > _URL_SECONDS:
            request = await self._request_with_url()
        if takes_over is not None:  # then a search comes before the POST
            self._end_turn()
        claimed_at = (time.monotonic(), time.time())  # before the put is sent
        claim = Claim(
            nonce=uuid.uuid4().hex,
            flow_run_id=self._run.flow_run_id,
            flow_run_name=self._run.flow_run_name,
            claimed_at=now(),
            lease_seconds=self._context.settings.lease_seconds,
            base_url=self._context.client.base_url,
            request=request.model_copy(update={"image": without_signature(request.image)}),
            job=self._job.without_secrets,
            nsfw=self._nsfw,
        )
        if not await self._ledger.claim(self._job.key, attempt, claim):
            self._end_turn()
            await asyncio.sleep(next(self._waits))
            return
        self._claim, self._request, self._claimed_at = claim, request, claimed_at
        self._runner = self._runner.with_claim(attempt, takes_over, self._state.lease)

    async def _affordable_request(self) -> ReduxRequest:
        """The request, with a URL that can be fetched, once it is known that it can be paid."""
        job, limit = self._job, self._max_cost_usd
        draft = job.request(without_signature(job.source.location))
        price = await self._context.prices.usd(draft, required=limit is not None)
        if limit is not None and price is not None:
            if price > limit:
                raise BudgetExceededError(
                    f"max_cost_usd {limit:g}: this job costs {price:g} USD: raise the limit or ask for less",
                    job_key=job.key,
                )
            balance = await self._context.client.balance()
            if price > balance:
                raise InsufficientCreditsError(
                    f"this job costs {price:g} USD and the balance is {balance:g} USD: "
                    "top up the WaveSpeed account",
                    job_key=job.key,
                )
        return await self._request_with_url()

    async def _request_with_url(self) -> ReduxRequest:
        return self._job.request(await self._context.publisher.url(self._job.source, self._show))

    @property
    def _show(self) -> Callable[[bytes], None] | None:
        """Takes the source's thumbnail, which is made while its bytes are at hand, if anybody wants it."""
        on_thumbnail, key = self._context.on_thumbnail, self._job.key
        return partial(on_thumbnail, key, 0) if on_thumbnail else None

    async def _post(self) -> None:
        if self._request is None:
            raise RuntimeError("a claim is made together with its request")
        before = self._runner
        self._runner, self._sent_at = self._runner.with_post_sent(), time.monotonic()
        turn, self._turn = self._turn, None
        try:
            self._prediction = await self._context.client.submit(
                self._request, webhook_url=self._marked_webhook_url, in_time=self._is_young, turn=turn
            )
        except AmbiguousSubmissionError as error:
            await self._note_unanswered(error.reason)
            return
        except RateLimitedError:  # nothing was created; the next turn is waited for before the next claim
            self._runner = before if self._is_young() else before.after_attempt()
            await self._give_back()
            return
        except RestyleError as error:  # refused, or not sent
            self._runner = before
            url, source = self._request.image, self._job.source
            if self._has_new_url or not self._context.publisher.forget(url, source, error):
                raise
            self._has_new_url = True
            await self._give_back()
            return
        self._answered_at = time.monotonic()
        self._runner = self._runner.with_prediction()
        metrics.SPENT.inc(self._context.prices.cached(self._request) or 0)
        if self._runner.held and self._runner.held.attempt > 1:
            metrics.RETRIES.inc()

    async def _note_unanswered(self, reason: str) -> None:
        self._unanswered.append(reason)
        self._error = UnansweredSubmissionError(  # unless the prediction is found
            f"{reason}. None of {rules.MAX_ATTEMPTS} submissions created a prediction, so the job "
            "stays open; run it again later",
            job_key=self._job.key,
            attempt_errors=tuple(self._unanswered),
        )
        if held := self._runner.held:
            await self._context.note_error(self._job, held.attempt, reason)

    @property
    def _marked_webhook_url(self) -> str | None:
        """The webhook URL with the job's key, by which a submission is found whose answer was lost.

        None with base64 outputs: WaveSpeedAI refuses both together, and polling serves.
        """
        url = None if self._job.params.enable_base64_output else self._webhook_url
        return f"{url}{'&' if '?' in url else '?'}job={self._job.key}" if url else None

    async def _give_back(self) -> None:
        """Remove the claim that is held, if nothing was sent and it is young; then hold none, and no turn."""
        self._end_turn()
        held = self._runner.held
        self._runner, self._claim = replace(self._runner, held=None, search="not yet"), None
        if held and not (held.sent or held.has_prediction) and self._is_young():
            with suppress(RestyleError):  # then it grows old and is taken over
                await asyncio.shield(self._ledger.release(self._job.key, held.attempt))

    def _end_turn(self) -> None:
        if self._turn:
            self._turn.give_back()
            self._turn = None

    # -- looking for what exists --------------------------------------------------------------------

    async def _search(self) -> None:
        """Search for what the attempts so far may have created: their late records, then the history."""
        try:
            self._prediction = await self._late_record() or await self._from_history_in_time()
        except RestyleError as error:
            is_unsure = isinstance(error, UnsureSubmissionError)
            self._error, self._runner = error, self._runner.after_search("unsure" if is_unsure else "failed")
            return
        if self._prediction is None:
            self._runner = self._runner.after_search("over")
            return
        if self._runner.held is None:
            self._runner = self._runner.with_claim(self._look.open_job.latest, None, 0.0)
        self._runner = self._runner.with_prediction()

    async def _from_history_in_time(self) -> Prediction | None:
        """Search the history; while it is failing, no longer than the claim can still be given back."""
        search, held = asyncio.ensure_future(self._from_history()), self._runner.held
        try:
            if held and not held.sent and self._is_young():
                await asyncio.wait({search}, timeout=0.9 * (self._half_lease - self._age()))
                if not search.done() and (error := self._context.history.failing):
                    raise error
            return await search
        finally:
            search.cancel()

    async def _late_record(self) -> Record | None:
        """The record of the abandoned attempt, if its owner has written it since."""
        held = self._runner.held
        if held is None or held.takes_over is None or held.sent:
            return None
        return await self._ledger.read_record(self._job.key, held.takes_over)

    async def _from_history(self) -> Prediction | None:
        job, open_job, held = self._job, self._look.open_job, self._runner.held
        attempts = sorted({*open_job.claimed, *([held.attempt] if held else [])})
        read = {number: await self._ledger.read_claim(job.key, number) for number in attempts}
        seconds = self._context.settings.reconcile_seconds
        if held and held.sent:  # until its time is over the API may still act on it
            seconds += max(0.0, self._context.client.submit_timeout - (time.monotonic() - self._sent_at))
        claims = {number: claim for number, claim in read.items() if claim}
        newest = open_job.latest if held is None else held.attempt if held.sent else held.takes_over
        found = await self._context.find_lost(
            open_job, claims, self._look.letter, attempt=newest or open_job.latest, seconds=seconds
        )
        if found:
            metrics.adopted(self._context.prices.cached(job.params))
        return found

    async def _ask_for_old_prediction(self) -> None:
        """Ask for what the job was given up with: it is paid for."""
        letter = self._look.letter
        if letter is None or letter.error.prediction_id is None:
            return
        try:
            prediction = await self._context.client.result(letter.error.prediction_id)
        except NotFoundError as error:
            if error.status != 404:  # a text may speak of an outage
                raise
            prediction = None
        useless = prediction is None or prediction.status in ENDED_BADLY
        if prediction is None or useless or (prediction.terminal and not prediction.outputs):
            self._runner = self._runner.with_old_prediction_asked()
            return
        self._prediction, self._runner = prediction, self._runner.with_prediction()

    # -- ending -------------------------------------------------------------------------------------

    async def _fail(self) -> None:
        if letter := self._look.letter:
            await self._ledger.close(self._job.key, self._look.open_job, letter.last_attempt, done=False)
            raise letter.as_error()

    async def _join(self, attempt: int) -> Submitted | None:
        record = await self._ledger.read_record(self._job.key, attempt)
        if record is None:  # closed meanwhile
            return None
        self._check_api(record.base_url)
        if self._runner.held and self._runner.held.attempt != attempt:
            await self._give_back()
        claim = await self._ledger.read_claim(self._job.key, attempt)
        return self._submitted(attempt, record, claim.flow_run_id if claim else None, fresh=False)

    async def _record(self) -> Submitted:
        held, prediction, job = self._runner.held, self._prediction, self._job
        if held is None or prediction is None:
            raise RuntimeError("a prediction is known together with its claim")
        if isinstance(prediction, Prediction):
            prediction = await self._context.make_record(job, prediction)
        # An id that only this coroutine knows is not given up with it.
        record = await asyncio.shield(self._ledger.record(job.key, held.attempt, prediction))
        self._context.known.remember(record.prediction_id, job.key)
        claim = self._claim or await self._ledger.read_claim(job.key, held.attempt)
        submitted = self._submitted(
            held.attempt,
            record,
            claim.flow_run_id if claim else None,
            fresh=self._answered_at is not None and record is prediction,
        )
        if submitted.fresh and held.attempt == 1 and self._claim and not self._look.open_job.recorded:
            self._remember(self._claim, record)
        return submitted

    def _remember(self, claim: Claim, record: Record) -> None:
        """Keep what the download needs to know of a first attempt."""
        claimed = self._look.open_job.claimed.get(1)
        if claimed and self._answered_at is not None:
            recorded = self._context.store.now()
            first = FirstAttempt(claim, record, claimed, recorded, self._answered_at)
            self._context.memory.keep_first_attempt(self._job, first)

    def _submitted(self, attempt: int, record: Record, flow_run_id: str | None, *, fresh: bool) -> Submitted:
        return Submitted(
            job_key=self._job.key,
            prediction_id=record.prediction_id,
            attempt=attempt,
            flow_run_id=flow_run_id,
            fresh=fresh,
            last_attempt=rules.is_last(self._state, attempt, self._runner.forgiven),
        )

    async def _give_up(self, attempt: int) -> RestyleError:
        error = await self._context.error_of(self._job, self._look.open_job, attempt)
        failure = Failure(
            type="AttemptsUsedUp",
            message=f"{error}: {rules.MAX_ATTEMPTS} predictions failed: use retry_failed",
        )
        return await self._context.give_up(self._job, attempt, failure)
