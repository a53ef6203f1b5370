"""Finishing every open job of an output, whichever run submitted it, without submitting anything.

For each job under ``open/``, ``ledger/rules.py`` decides, with a runner that may not submit:

- done, or failed for good: what is left open is removed;
- its newest attempt has a prediction: it is polled, and its outputs are stored;
- its newest claim is young: its runner is working on it, so it is left alone;
- its newest claim is old: its runner is gone, and the history is searched for what it may have created.

All that settling writes is created only if absent: so it is safe beside runners, beside itself, and killed at
any time. Jobs that need a new submission stay open and are reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial

from prefect_wavespeed import metrics
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.errors import (
    AuthenticationError,
    ConfigurationError,
    PredictionFailedError,
    PredictionTimeoutError,
    RestyleError,
    StoreError,
    UnsureSubmissionError,
    redact,
)
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.ledger import moves, rules
from prefect_wavespeed.ledger.ledger import Look
from prefect_wavespeed.ledger.open_jobs import open_keys
from prefect_wavespeed.ledger.records import Claim, DeadLetter, Failure, OpenJob
from prefect_wavespeed.ledger.sidecar import restyled_from
from prefect_wavespeed.retry import retry, short_waits
from prefect_wavespeed.settings import Settings, get_settings
from prefect_wavespeed.settling.summary import Settled, SettleOutcome, SettleStatus
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.steps.context import StepContext
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

CONCURRENCY = 64
"""Jobs that are worked on at once."""
SEARCHES = 1_000
"""Jobs that share one scan of the history."""

_FIRST_POLL = 1.0  # seconds that a prediction is polled, before the jobs behind it have their turn
_LONGEST_POLL = 60.0
_TURN = 200.0  # seconds, after which it begins nothing new: its next turn comes five minutes after this one
_LONGEST_WAIT = 15.0  # seconds that an answer may ask to wait
_HISTORY_DAYS = timedelta(seconds=rules.HISTORY_SECONDS).days


async def settle(
    client: WaveSpeedClient,
    store: Store,
    run: RunInfo,
    settings: Settings | None = None,
    on_progress: Callable[[SettleOutcome], None] = lambda outcome: None,
) -> Settled:
    """Finish every open job of an output as far as possible; nothing is submitted, so nothing is billed.

    Predictions that are not ready are polled again and again until ``poll_timeout_seconds`` have passed since
    all jobs were looked at once, and for 200 s at most: an answer that asks to wait must not keep it from its
    next turn.

    Args:
        client: the API that the jobs were submitted to.
        store: the output.
        run: the run that does it, for the side-cars.
        settings: times; by default those of the environment.
        on_progress: called with each job's outcome.

    Returns:
        What was done, in jobs.

    Raises:
        StoreError, ConfigurationError: the store cannot be used.
        AuthenticationError: WaveSpeedAI refuses the key.
        UnavailableError, RateLimitedError: WaveSpeedAI is not available now.
    """
    return await _Settlement(client, store, run, settings or get_settings(), on_progress).run()


class _Settlement:
    """One call of ``settle``."""

    def __init__(
        self,
        client: WaveSpeedClient,
        store: Store,
        run: RunInfo,
        settings: Settings,
        on_progress: Callable[[SettleOutcome], None],
    ) -> None:
        self._client = client
        self._store = store
        self._run = run
        self._settings = settings
        self._on_progress = on_progress
        self._context = StepContext(client, store, settings)
        self._ledger = self._context.ledger
        self._runner = rules.Runner(settings.lease_seconds / 2, may_submit=False)
        self._settled = Settled()
        self._to_search: list[str] = []  # old claims without a prediction: one scan of the history serves all
        self._to_revisit: list[str] = []
        self._deadline = float("inf")

    async def run(self) -> Settled:
        with short_waits(_LONGEST_WAIT):
            return await self._settle()

    async def _settle(self) -> Settled:
        ends = time.monotonic() + _TURN
        await self._store.ensure_conditional_put()
        await self._each(self._keys(), CONCURRENCY, partial(self._visit, self._steps(_FIRST_POLL)))
        # One stuck prediction must not keep the others waiting: so round after round, each longer.
        self._deadline = min(time.monotonic() + self._settings.poll_timeout_seconds, ends)
        patience = _FIRST_POLL
        while self._to_search or self._to_revisit:
            await self._each(_emptied(self._to_search), SEARCHES, self._search)
            left = max(_FIRST_POLL, self._deadline - time.monotonic())
            patience = min(patience * 2, left, _LONGEST_POLL)
            await self._each(
                _emptied(self._to_revisit), CONCURRENCY, partial(self._visit, self._steps(patience))
            )
        return self._settled.complete()

    async def _keys(self) -> AsyncIterator[str]:
        """The keys of all open jobs."""
        checked = False
        async for key, _ in open_keys(self._store):
            if not checked:  # once, not job by job: is the API available, and does it take the key?
                await retry(self._client.balance, tries=3)
                checked = True
            yield key

    async def _each(
        self,
        keys: AsyncIterable[str] | Iterable[str],
        limit: int,
        work: Callable[[SettleOutcome], Awaitable[None]],
    ) -> None:
        """Work on each job, and report its outcome. Only an error that concerns all of them is raised."""

        async def one(key: str) -> None:
            outcome = SettleOutcome(key)
            await self._guarded(outcome, work)
            if outcome.status:
                self._settled.count(outcome)
                self._on_progress(outcome)

        await for_each(one, keys, limit)

    async def _guarded(
        self, outcome: SettleOutcome, work: Callable[[SettleOutcome], Awaitable[None]]
    ) -> None:
        try:
            await work(outcome)
        except PredictionFailedError as error:
            outcome.status, outcome.message, outcome.error = "failed", error.message, error
            outcome.prediction_id = error.prediction_id
        except PredictionTimeoutError as error:
            outcome.message = "still in progress: settle again later"
            outcome.prediction_id = error.prediction_id
            self._revisit(outcome, "not_ready")
        except UnsureSubmissionError as error:
            outcome.status, outcome.message = "unsure", error.message
        except AuthenticationError:
            raise
        except RestyleError as error:
            if isinstance(error, StoreError | ConfigurationError):
                await self._store.head(layout.probe("settle"))  # raises where no job can be read at all
            outcome.status, outcome.message = "error", error.message
        except Exception as error:  # a defect that shows with one job is that job's
            outcome.status = "error"
            outcome.message = f"unexpected {type(error).__name__}: {redact(error)}"

    def _revisit(self, outcome: SettleOutcome, otherwise: SettleStatus) -> None:
        """Visit the job again in the next round, as long as there is time for one."""
        if time.monotonic() < self._deadline:
            self._to_revisit.append(outcome.job_key)
        else:
            outcome.status = otherwise

    # -- one job --------------------------------------------------------------------------------

    async def _visit(self, steps: StepSet, outcome: SettleOutcome) -> None:
        """Do what the rules say next about a job, where that does not need the history."""
        key = outcome.job_key
        open_job, claims = await self._read(key)
        if not open_job.latest:  # another process has closed it, and an error may have been noted later
            await self._ledger.close(key, open_job, max(open_job.errors, default=0), done=False)
            return
        letter = await self._ledger.dead_letter(key)
        if letter and letter.last_attempt >= open_job.latest:
            await self._close_failed(outcome, open_job, claims, letter)
            return
        if not claims:
            outcome.status = "error"
            outcome.message = "its claim is gone, so nothing says what was asked for: run the job again"
            return
        look, move = await self._next_move(outcome, open_job, claims, letter)
        match move:
            case moves.Done():
                await self._close_done(outcome, look)
            case moves.Join(attempt):
                await self._finish(steps, outcome, attempt, claims, look)
            case moves.Wait():
                outcome.status = "running"
            case moves.LeaveOpen("unsure"):
                raise await self._context.in_doubt(key, max(open_job.doubtful))
            case moves.LeaveOpen():  # a person has found that nothing was submitted
                await self._leave_unsubmitted(outcome, open_job.latest)
            case _ if open_job.latest not in claims:  # given back this very moment
                self._revisit(outcome, "running")
            case _:
                if self._is_same_api(_newest(claims).base_url, outcome):
                    self._to_search.append(key)

    async def _search(self, outcome: SettleOutcome) -> None:
        """Search for what a runner that is gone may have created, and record it."""
        key = outcome.job_key
        open_job, claims = await self._read(key)
        attempt = open_job.latest
        if attempt not in claims or attempt in open_job.recorded:  # another process has gone on with it
            self._revisit(outcome, "running")
            return
        letter = await self._ledger.dead_letter(key)
        look, move = await self._next_move(outcome, open_job, claims, letter)
        match move:
            case moves.Search():
                found = await self._search_history(look, claims)
            case moves.Wait():
                outcome.status = "running"
                return
            case _:  # it has ended since
                self._revisit(outcome, "running")
                return
        if found:
            await self._record(outcome, attempt, found, claims[attempt])
            return
        state = self._state(look, claims)
        match rules.next_move(state, rules.begin(state, self._runner).after_search("over")):
            case moves.GiveUp():
                raise await self._give_up(outcome, attempt, claims[attempt])
            case _:
                await self._leave_unsubmitted(outcome, attempt)

    async def _leave_unsubmitted(self, outcome: SettleOutcome, attempt: int) -> None:
        outcome.status = "not_submitted"
        found = f"nothing was submitted in attempt {attempt}"
        outcome.message = f"{found}: run the job again"
        if outcome.job:
            await self._context.note_error(outcome.job, attempt, found)

    async def _next_move(
        self,
        outcome: SettleOutcome,
        open_job: OpenJob,
        claims: dict[int, Claim],
        letter: DeadLetter | None,
    ) -> tuple[Look, moves.Move]:
        outcome.job = _newest(claims).job
        look = Look(await self._ledger.side_car(outcome.job), letter, open_job)
        state = self._state(look, claims)
        return look, rules.next_move(state, rules.begin(state, self._runner))

    def _state(self, look: Look, claims: dict[int, Claim]) -> rules.JobState:
        return self._context.job_state(look, self._context.lease_of(_newest(claims)), flow_run_id=None)

    async def _close_failed(
        self, outcome: SettleOutcome, open_job: OpenJob, claims: dict[int, Claim], letter: DeadLetter
    ) -> None:
        await self._ledger.close(outcome.job_key, open_job, letter.last_attempt, done=False)
        outcome.status, outcome.error = "closed", letter.as_error()
        outcome.job = _newest(claims).job if claims else None

    async def _close_done(self, outcome: SettleOutcome, look: Look) -> None:
        if outcome.job is None or look.side_car is None:
            return
        await self._context.remove_leftovers(outcome.job)
        outcome.restyled = restyled_from(self._store, outcome.job, look.side_car, cached=True)
        outcome.status, outcome.prediction_id = "closed", look.side_car.prediction.id

    async def _finish(
        self,
        steps: StepSet,
        outcome: SettleOutcome,
        attempt: int,
        claims: dict[int, Claim],
        look: Look,
    ) -> None:
        """Poll an attempt's prediction and store its outputs."""
        claim = _newest(claims)
        record = await self._ledger.read_record(outcome.job_key, attempt)
        if record is None or not self._is_same_api(record.base_url, outcome):
            return
        outcome.prediction_id = record.prediction_id
        forgiven = look.letter.last_attempt if look.letter else 0
        state = self._state(look, claims)
        submitted = Submitted(
            job_key=outcome.job_key,
            prediction_id=record.prediction_id,
            attempt=attempt,
            flow_run_id=claim.flow_run_id,
            last_attempt=rules.is_last(state, attempt, forgiven),
        )
        polled = await steps.poll(claim.job, submitted)
        if not polled.completed:
            outcome.status = "retryable"
            outcome.message = f"{polled.error}; it may be tried again: run the job again"
            return
        outcome.restyled = await steps.download(claim.job, submitted, run=self._run, nsfw=claim.nsfw)
        outcome.status = "stored"

    async def _search_history(self, look: Look, claims: dict[int, Claim]) -> Prediction | None:
        """What the attempts so far may have created; searched for longer where it may still be on its way."""
        newest = look.open_job.claimed[look.open_job.latest]
        left = self._context.lease_of(_newest(claims)) - (self._store.now() - newest)
        seconds = left.total_seconds() + self._settings.reconcile_seconds
        return await self._context.find_lost(
            look.open_job, claims, look.letter, attempt=look.open_job.latest, seconds=max(0.0, seconds)
        )

    async def _record(self, outcome: SettleOutcome, attempt: int, found: Prediction, claim: Claim) -> None:
        record = await self._context.make_record(claim.job, found)
        record = await self._ledger.record(claim.job.key, attempt, record)
        self._context.known.remember(record.prediction_id, claim.job.key)
        metrics.adopted(record.quoted_usd)
        if await self._ledger.side_car(claim.job):  # then nobody else removes the record just written
            await self._context.remove_leftovers(claim.job)
            outcome.status = "closed"
        else:
            self._to_revisit.append(claim.job.key)

    async def _give_up(self, outcome: SettleOutcome, attempt: int, claim: Claim) -> PredictionFailedError:
        """Write the dead letter of a job that got no prediction for as long as the history remembers."""
        open_job = await self._ledger.open_job(outcome.job_key)
        if open_job.latest != attempt or attempt in open_job.recorded:
            raise StoreError("another process has continued this job: settle again")
        failure = Failure(
            type="NeverSubmitted",
            message=f"attempt {attempt} submitted nothing within {_HISTORY_DAYS} days: use retry_failed",
        )
        return await self._context.give_up(claim.job, attempt, failure)

    # -- reading ----------------------------------------------------------------------------------

    async def _read(self, key: str) -> tuple[OpenJob, dict[int, Claim]]:
        """A job's attempts, and their claims by number."""
        open_job = await self._ledger.open_job(key)
        if open_job.latest and not open_job.claimed:  # seen between two removals: look again
            await asyncio.sleep(1)
            open_job = await self._ledger.open_job(key)
        claims = {}
        for attempt in open_job.claimed:
            if claim := await self._ledger.read_claim(key, attempt):
                if claim.job.key != key:
                    raise StoreError(f"{layout.claim(key, attempt)} holds another job: move it away")
                claims[attempt] = claim
        if open_job.claimed and not claims:  # closed between the two calls
            return OpenJob(), {}
        return open_job, claims

    def _is_same_api(self, base_url: str, outcome: SettleOutcome) -> bool:
        """Whether the job is open at the API that this call uses; reported where it is not."""
        if base_url == self._client.base_url:
            return True
        outcome.status, outcome.message = "other_api", f"open at {base_url}: settle it with that API"
        return False

    def _steps(self, patience: float) -> StepSet:
        settings = self._settings.model_copy(update={"poll_timeout_seconds": patience})
        return StepSet(self._client, self._store, settings)


def _emptied(keys: list[str]) -> list[str]:
    """All of them; the list is empty then."""
    taken = keys.copy()
    keys.clear()
    return taken


def _newest(claims: dict[int, Claim]) -> Claim:
    return claims[max(claims)]
