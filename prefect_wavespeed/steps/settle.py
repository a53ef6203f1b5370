"""Bringing every open job of an output forward, whoever submitted it, without ever submitting anything.

For each job under ``open/``:

- its side-car or its dead letter is there: what is left open is removed;
- its newest attempt has a prediction: it is polled, and its outputs are stored;
- its newest attempt is a young claim: its runner is at it, so it is left alone;
- its newest attempt is an old claim: its runner is gone, and the history is searched for what it may have
  created. What is found is recorded and goes on as above; what is not found was never billed.

Nothing here calls ``submit``, and all that it writes is created only if absent: so it is safe beside
runners, beside itself, and killed at any time. Jobs that need a new submission stay open and are told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from pydantic import BaseModel, Field

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
    redact,
)
from prefect_wavespeed.job import Job, Restyled, RunInfo
from prefect_wavespeed.ledger.open_jobs import open_keys
from prefect_wavespeed.ledger.records import Claim, DeadLetter, Failure, OpenJob, Record
from prefect_wavespeed.retry import retry
from prefect_wavespeed.settings import Settings, get_settings
from prefect_wavespeed.steps.attempts import Shared
from prefect_wavespeed.steps.collect_outputs import restyled_from
from prefect_wavespeed.steps.step_set import CLOCK_GRAIN, MAX_ATTEMPTS, StepSet, Submitted
from prefect_wavespeed.storage.store import Store

AT_ONCE = 64
"""Jobs that are worked on at once."""
SEARCHING = 1_000
"""Jobs that share one scan of the history."""
TOLD = 1_000
"""Problems that are kept; of more, only the number is."""
KEPT = timedelta(days=7)
"""How long WaveSpeedAI's history remembers a prediction."""

_FIRST_LOOK = 1.0  # seconds that a prediction is polled, before the jobs behind it have their turn
_LONGEST_LOOK = 60.0

Standing = Literal[
    "stored", "closed", "failed", "running", "unready", "unsubmitted", "again", "elsewhere", "unsettled"
]
"""What became of a job; the fields of ``Settled`` say what each word means."""
_PROBLEMS: frozenset[Standing] = frozenset(
    {"failed", "unready", "unsubmitted", "again", "elsewhere", "unsettled"}
)


@dataclass
class SettleOutcome:
    """What became of one job.

    Attributes:
        standing: None as long as there is nothing to tell.
        job: None where nothing tells what was asked for.
        restyled: what is stored of it, now or earlier.
        error: why it has failed for good, now or earlier.
    """

    job_key: str
    standing: Standing | None = None
    message: str = ""
    job: Job | None = None
    prediction_id: str | None = None
    restyled: Restyled | None = None
    error: PredictionFailedError | None = None


class Problem(BaseModel):
    """A job that is not stored, and why."""

    job_key: str
    standing: Standing
    message: str
    source: str | None = Field(description="Of the picture; nothing secret in it.")
    prediction_id: str | None


class Settled(BaseModel):
    """What was done, in jobs."""

    stored: int = Field(default=0, description="Their pictures were brought home now.")
    closed: int = Field(default=0, description="Were done, or had failed, already: what was open is removed.")
    failed: int = Field(default=0, description="Failed for good; each has its dead letter.")
    running: int = Field(default=0, description="A runner has just claimed them: left alone.")
    unready: int = Field(default=0, description="Not ready at WaveSpeedAI within the poll's time.")
    unsubmitted: int = Field(default=0, description="Their runner is gone and never submitted them.")
    again: int = Field(default=0, description="Failed at WaveSpeedAI in a way that may be tried again.")
    elsewhere: int = Field(default=0, description="Open at another API: left alone.")
    unsettled: int = Field(default=0, description="Something went wrong here; they are as they were.")
    problems: list[Problem] = Field(default_factory=list, description=f"The first {TOLD}.")
    problems_left_out: int = 0

    def groups(self) -> list[tuple[str, int]]:
        """What was done, for people: a line for each group, and how many jobs are in it."""
        return [
            ("stored", self.stored),
            ("done or failed already: what was left open is removed", self.closed),
            ("failed for good: see failed/", self.failed),
            ("still running elsewhere: left alone", self.running),
            ("not ready at WaveSpeedAI yet: settle again later", self.unready),
            ("never submitted: run them again", self.unsubmitted),
            ("failed at WaveSpeedAI, may be tried again: run them again", self.again),
            ("open at another API: settle them with that one", self.elsewhere),
            ("something went wrong: left as they were", self.unsettled),
        ]

    def count(self, outcome: SettleOutcome) -> None:
        """Add what became of a job."""
        if outcome.standing is None:
            return
        setattr(self, outcome.standing, getattr(self, outcome.standing) + 1)
        if outcome.standing not in _PROBLEMS:
            return
        if len(self.problems) == TOLD:
            self.problems_left_out += 1
            return
        self.problems.append(
            Problem(
                job_key=outcome.job_key,
                standing=outcome.standing,
                message=outcome.message,
                source=outcome.job.source.uri if outcome.job else None,
                prediction_id=outcome.prediction_id,
            )
        )


async def settle(
    client: WaveSpeedClient,
    store: Store,
    run: RunInfo,
    settings: Settings | None = None,
    on_progress: Callable[[SettleOutcome], None] = lambda outcome: None,
) -> Settled:
    """Bring every open job of an output forward.

    Predictions that are not ready are come back to until ``poll_timeout_seconds`` have passed since all
    jobs were looked at once.

    Args:
        client: the API that the jobs were submitted to.
        store: the output.
        run: who does it, for the side-cars.
        settings: times; by default those of the environment.
        on_progress: called for each job, when it is known what became of it.

    Raises:
        StoreError, ConfigurationError: the store cannot be used.
        AuthenticationError: WaveSpeedAI refuses the key.
        UnavailableError, RateLimitedError: WaveSpeedAI cannot be asked anything now.
    """
    return await _Settling(client, store, run, settings or get_settings(), on_progress).run()


class _Settling:
    """One go at an output."""

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
        self._shared = Shared(client, store, settings)
        self._ledger = self._shared.ledger
        self._settled = Settled()
        self._orphans: list[str] = []  # old claims without a prediction, to be searched for together
        self._waiting: list[str] = []  # to be looked at again
        self._give_up = float("inf")

    async def run(self) -> Settled:
        await self._store.ensure_conditional_put()
        await self._each(self._keys(), AT_ONCE, partial(self._look, self._steps(_FIRST_LOOK)))
        # One prediction that is stuck must not keep the others waiting: so round after round, each longer.
        self._give_up = time.monotonic() + self._settings.poll_timeout_seconds
        patience = _FIRST_LOOK
        while self._orphans or self._waiting:
            await self._each(_taken(self._orphans), SEARCHING, self._adopt)
            left = max(_FIRST_LOOK, self._give_up - time.monotonic())
            patience = min(patience * 2, left, _LONGEST_LOOK)
            await self._each(_taken(self._waiting), AT_ONCE, partial(self._look, self._steps(patience)))
        return self._settled

    async def _keys(self) -> AsyncIterator[str]:
        """The keys of all open jobs."""
        reached = False
        async for key, _ in open_keys(self._store):
            if not reached:
                await self._reach_api()
                reached = True
            yield key

    async def _reach_api(self) -> None:
        """Find out at once, not job by job, that the API is away or refuses the key."""
        await retry(self._client.balance, tries=3)

    async def _each(
        self,
        keys: AsyncIterable[str] | Iterable[str],
        at_once: int,
        work: Callable[[SettleOutcome], Awaitable[None]],
    ) -> None:
        """Do something for each job, a number of them at once."""
        await for_each(lambda key: self._tell(SettleOutcome(key), work), keys, at_once)

    async def _tell(self, outcome: SettleOutcome, work: Callable[[SettleOutcome], Awaitable[None]]) -> None:
        """Do the work for one job, count it and tell it. Only what would stop all the others is raised."""
        try:
            await work(outcome)
        except PredictionFailedError as error:
            outcome.standing, outcome.message, outcome.error = "failed", error.message, error
            outcome.prediction_id = error.prediction_id
        except PredictionTimeoutError as error:
            outcome.message = f"prediction {error.prediction_id} is not ready: settle again later"
            self._later(outcome, "unready")
        except AuthenticationError:
            raise
        except RestyleError as error:
            if isinstance(error, StoreError | ConfigurationError):
                await self._store.head("open/.settle")  # raises where the store is away for all of them
            outcome.standing, outcome.message = "unsettled", error.message
        except Exception as error:  # a defect that one job brings to light is that job's
            outcome.standing = "unsettled"
            outcome.message = f"unexpected {type(error).__name__}: {redact(error)}"
        if outcome.standing:
            self._settled.count(outcome)
            self._on_progress(outcome)

    def _later(self, outcome: SettleOutcome, otherwise: Standing) -> None:
        """Have another look at the job in the next round, as long as there is time for one."""
        if time.monotonic() < self._give_up:
            self._waiting.append(outcome.job_key)
        else:
            outcome.standing = otherwise

    # -- one job --------------------------------------------------------------------------------

    async def _look(self, steps: StepSet, outcome: SettleOutcome) -> None:
        """Look where a job stands and, where it has a prediction, bring it home."""
        key = outcome.job_key
        there, claims = await self._read(key)
        if not there.latest:
            return  # closed by somebody meanwhile
        letter = await self._ledger.dead(key)
        if letter and letter.last_attempt >= there.latest:
            await self._ledger.close(key, there, letter.last_attempt, done=False)
            outcome.standing, outcome.error = "closed", letter.as_error()
            outcome.job = _newest(claims).job if claims else None
            return
        if not claims:
            outcome.standing = "unsettled"
            outcome.message = "its claim is gone, so nothing tells what was asked for: run the job again"
            return
        claim = _newest(claims)
        job = outcome.job = claim.job
        if metadata := await self._ledger.done(job):
            await self._shared.sweep(job)
            outcome.restyled = restyled_from(self._store, job, metadata, cached=True)
            outcome.standing, outcome.prediction_id = "closed", metadata.prediction.id
            return
        if there.latest not in there.recorded:
            if self._is_here(claim.base_url, outcome):
                self._wait_or_search(there, claims, outcome)
            return
        record = await self._ledger.recorded(key, there.latest)
        if record is None or not self._is_here(record.base_url, outcome):
            return
        outcome.prediction_id = record.prediction_id
        submitted = Submitted(
            job_key=key,
            prediction_id=record.prediction_id,
            attempt=there.latest,
            flow_run_id=claim.flow_run_id,
            last_attempt=there.latest - (letter.last_attempt if letter else 0) >= MAX_ATTEMPTS,
        )
        polled = await steps.poll(job, submitted)
        if not polled.completed:
            outcome.standing = "again"
            outcome.message = f"{polled.error}: failed at WaveSpeedAI, may be tried again: run it again"
            return
        outcome.restyled = await steps.download(job, submitted, run=self._run, nsfw=claim.nsfw)
        outcome.standing = "stored"

    def _wait_or_search(self, there: OpenJob, claims: dict[int, Claim], outcome: SettleOutcome) -> None:
        """A claim without a prediction is its runner's while it is young."""
        if there.latest not in claims:  # given back this very moment
            self._later(outcome, "running")
        elif self._age(there) < _lease(claims[there.latest]):
            outcome.standing = "running"
        else:
            self._orphans.append(outcome.job_key)

    async def _adopt(self, outcome: SettleOutcome) -> None:
        """Search for what a runner that is gone may have created, and record it."""
        key = outcome.job_key
        there, claims = await self._read(key)
        attempt = there.latest
        if attempt not in claims or attempt in there.recorded:  # somebody has gone on with it
            self._later(outcome, "running")
            return
        claim, age = claims[attempt], self._age(there)
        job = outcome.job = claim.job
        if age < _lease(claim):
            outcome.standing = "running"
            return
        letter = await self._ledger.dead(key)
        found = await self._search(there, claims, age, letter)
        if found:
            await self._record(job, attempt, found)
            if await self._ledger.done(job):  # and so nobody else will remove the record that we just wrote
                await self._shared.sweep(job)
                outcome.standing = "closed"
            else:
                self._waiting.append(key)
        elif age < KEPT:
            outcome.standing = "unsubmitted"
            outcome.message = f"nothing was submitted in attempt {attempt}: run it again"
        else:
            raise await self._give_up_on(job, attempt)

    async def _search(
        self, there: OpenJob, claims: dict[int, Claim], age: timedelta, letter: DeadLetter | None
    ) -> Prediction | None:
        """What the attempts so far may have created; looked for longer where it may still be on its way."""
        times: list[datetime] = [*there.claimed.values(), *(claim.claimed_at for claim in claims.values())]
        fresh = _lease(claims[there.latest]) - age + timedelta(seconds=self._settings.reconcile_seconds)
        useless = frozenset({letter.error.prediction_id or ""} if letter else ())
        requests = [claim.request for claim in claims.values()]
        return await self._shared.history.search(
            requests, min(times), max(0.0, fresh.total_seconds()), useless
        )

    async def _record(self, job: Job, attempt: int, found: Prediction) -> None:
        record = Record(
            prediction_id=found.id,
            submitted_at=found.created_at,
            quoted_usd=await self._shared.prices.usd(job.request(job.source.location), required=False),
            base_url=self._client.base_url,
        )
        await self._ledger.record(job.key, attempt, record)
        metrics.adopted(record.quoted_usd)

    async def _give_up_on(self, job: Job, attempt: int) -> PredictionFailedError:
        """Write the dead letter of a job of which nothing came for so long that nothing ever will."""
        there = await self._ledger.open(job.key)
        if there.latest != attempt or attempt in there.recorded:
            raise StoreError("somebody has gone on with this job meanwhile: settle again")
        failure = Failure(
            type="NeverSubmitted",
            message=f"attempt {attempt} never came to anything within {KEPT.days} days: use retry_failed",
        )
        return await self._shared.fail(job, attempt, failure)

    # -- what it takes --------------------------------------------------------------------------

    async def _read(self, key: str) -> tuple[OpenJob, dict[int, Claim]]:
        """What is there of a job, and its claims by their attempts."""
        there = await self._ledger.open(key)
        if there.latest and not there.claimed:  # caught between two removals: look again
            await asyncio.sleep(1)
            there = await self._ledger.open(key)
        claims = {}
        for attempt in there.claimed:
            if claim := await self._ledger.claimed(key, attempt):
                if claim.job.key != key:
                    raise StoreError(f"open/{key}/{attempt}.claim.json holds another job: move it away")
                claims[attempt] = claim
        if there.claimed and not claims:  # closed between the two calls
            return OpenJob(), {}
        return there, claims

    def _age(self, there: OpenJob) -> timedelta:
        return self._store.now() - there.claimed[there.latest]

    def _is_here(self, base_url: str, outcome: SettleOutcome) -> bool:
        """Whether the job is open at the API that we ask; told where it is not."""
        if base_url == self._client.base_url:
            return True
        outcome.standing, outcome.message = "elsewhere", f"open at {base_url}: settle it with that API"
        return False

    def _steps(self, patience: float) -> StepSet:
        settings = self._settings.model_copy(update={"poll_timeout_seconds": patience})
        return StepSet(self._client, self._store, settings)


def _taken(keys: list[str]) -> list[str]:
    """All of them; the list is empty then."""
    taken = keys.copy()
    keys.clear()
    return taken


def _newest(claims: dict[int, Claim]) -> Claim:
    return claims[max(claims)]


def _lease(claim: Claim) -> timedelta:
    return timedelta(seconds=claim.lease_seconds) + CLOCK_GRAIN
