"""A batch: a list of jobs, carried out side by side, and an account of what became of each.

    async with Batch(client, store, run, folder, options) as batch:
        await batch.read(manifest)      # every row is looked at, before anything is spent
        await batch.afford()            # quote and balance, before the first submission
        await batch.carry_out(carrier)
        summary = await batch.close()   # the account is written

A job's failure never stops the others. Three things stop the submitting of what is not submitted yet: the
cap is reached, the key is refused, the account is empty. What flies is finished and stored all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Self

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import ENDED_BADLY
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.batch.job_table import JobOutcome, JobTable
from prefect_wavespeed.batch.manifest import BadRow, Row, read_manifest, shown
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.report import Status, Summary, write_account
from prefect_wavespeed.batch.report_parts import Parts
from prefect_wavespeed.batch.shards import Share
from prefect_wavespeed.concurrency import for_each, map_all
from prefect_wavespeed.errors import (
    AmbiguousSubmissionError,
    AuthenticationError,
    BatchFailedError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    ManifestError,
    NotFoundError,
    PredictionFailedError,
    RateLimitedError,
    RestyleError,
    SourceError,
    redact,
    worth_retrying,
)
from prefect_wavespeed.job import Job, Restyled, RunInfo
from prefect_wavespeed.ledger.ledger import Ledger, now
from prefect_wavespeed.ledger.records import DeadLetter, Metadata, OpenJob
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.retry import retrying
from prefect_wavespeed.sources.identify import read_source
from prefect_wavespeed.steps.collect_outputs import restyled_from
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.steps.step_set import (
    DownloadStep,
    LookStep,
    PollStep,
    SubmitStep,
    Submitted,
    make_job,
    run_job,
)
from prefect_wavespeed.storage.store import Store

_AT_ONCE = 32  # rows, or jobs, that are looked at in the store at once
_TRIES = 6  # of a step, over a minute or less: a server may restart meanwhile
_NAMED = 5  # bad rows that an error names
_SOURCES_SHOWN = 500  # sources that get a thumbnail of their own
_MADE_SHOWN = 500  # jobs of other runs whose pictures get one

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

_log = logging.getLogger(__name__)

_patiently = partial(retrying, tries=_TRIES, first=2, most=20)


@dataclass(frozen=True)
class BatchQuote:
    """What a batch would cost, before anything is spent.

    What is done, open or failed is None where it was not counted, for all could be paid anyway.

    Attributes:
        rows: in the manifest.
        invalid: rows that say nothing usable, and are skipped.
        unusable: rows whose image cannot be used, which are skipped and have failed.
        jobs: different ones that the rows ask for.
        done: jobs that are stored already.
        open: jobs whose prediction is under way: it is taken up where it is, and
            billed again only if it has failed.
        failed: jobs that have failed for good earlier, and are not gone at again.
        billed: jobs that would be billed, at the most.
        usd: what these cost.
        balance_usd: what the account holds.
    """

    rows: int
    invalid: int
    unusable: int
    jobs: int
    done: int | None
    open: int | None
    failed: int | None
    billed: int
    usd: float
    balance_usd: float


@dataclass
class Progress:
    """Where a batch stands.

    Attributes:
        rows: in the manifest.
        counts: rows of which it is known what became of them.
        spent_usd: what the pictures stored or submitted so far have cost this run.
    """

    rows: int = 0
    counts: Counter[Status] = field(default_factory=Counter)
    spent_usd: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def known(self) -> int:
        """Rows of which it is known what became of them."""
        return self.counts.total()


@dataclass(frozen=True)
class Carrier:
    """The steps that carry a job through: those of ``StepSet`` or tasks around them; and a slot."""

    submit: SubmitStep
    poll: PollStep
    download: DownloadStep
    slot: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    look: LookStep | None = None

    def patient(self) -> Carrier:
        """The same, each step tried again after an error that may pass, where Prefect does not do so."""
        return replace(
            self,
            submit=_patiently(self.submit),
            poll=_patiently(self.poll),
            download=_patiently(self.download),
        )


class Batch:
    """A batch on one API and one store.

    Args:
        client: the API.
        store: where the outputs go.
        run: who does it.
        folder: where below the store the account goes: see ``account_folder``.
        options: what is asked for.
        quotes: what jobs cost, shared with the steps; by default its own.
        again: an earlier try of the same run may have spent something: look for that first.
        share: the jobs to carry out, where other runs carry out the rest. The account is then not written
            here: what is told of them is left below ``folder`` for the whole run.
        on_change: told whenever it is known of some more rows what became of them.

    Attributes:
        plan: its rows and jobs, once they are read.
        budget: what is spent; whoever submits takes from it first.
        progress: where it stands.
        stopped: why nothing more is submitted; None as long as all goes on.
        passing: whether something came to nothing for a reason that may pass.
        run: who does it.
        store: where the outputs go.
        folder: where below the store the account goes.
    """

    def __init__(
        self,
        client: WaveSpeedClient,
        store: Store,
        run: RunInfo,
        folder: str,
        options: BatchOptions,
        *,
        prices: PriceCache | None = None,
        again: bool = False,
        share: Share | None = None,
        on_change: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.table = JobTable()
        self.progress = Progress()
        self.stopped: RestyleError | None = None
        self.passing = False
        self._client = client
        self.store = store
        self.run = run
        self.folder = folder
        self.options = options
        self._on_change = on_change
        self._ledger = Ledger(store)
        self._prices = prices or PriceCache(client)
        self._again = again
        self._share = share
        self.budget = Budget(options.max_cost_usd, self._prices)
        self._quote: BatchQuote | None = None
        self._manifest = ""
        self._started = now()
        self._parts = Parts(store, folder)
        self._slots = asyncio.Semaphore(options.concurrency)
        # Beside those in flight: one at the door for each place that gets free, and those that download.
        self._room = asyncio.Semaphore(options.concurrency + max(16, options.concurrency // 2))
        self._holding: set[asyncio.Task[None]] = set()
        self._sources_shown = 0
        self._begun = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._holding:
            task.cancel()
        await asyncio.gather(*self._holding, return_exceptions=True)
        await self._parts.flush()
        self.table.close()

    # -- before anything is spent ---------------------------------------------------------------

    async def read(self, manifest: str | Sequence[str]) -> None:
        """Read the whole manifest and look at every row.

        Args:
            manifest: a file, ``s3://…``, an https URL, or images; see ``read_manifest``.

        Raises:
            ManifestError: it cannot be read, holds nothing, or holds bad rows that are not to be skipped.
            StoreError, UnsafeStoreError: the store cannot be relied on.
        """
        self._manifest = shown(manifest)
        await self.store.ensure_conditional_put()
        async with aclosing(read_manifest(manifest, self.options.params, self.store)) as batches:
            async for rows in batches:
                for row, job in await map_all(self._identified, self._mine(rows), _AT_ONCE):
                    if isinstance(row, Row) and job and (self._share is None or self._share.holds(job)):
                        self.table.add(row, job)
                    elif isinstance(row, BadRow) and self._share is None:
                        self.table.reject(row)
        self._refuse_bad_rows()
        self.progress.rows = self.table.rows
        self.progress.counts.update(self.table.bad)

    def _mine(self, rows: Sequence[Row | BadRow]) -> Sequence[Row | BadRow]:
        """The rows to look at. Bad ones are the whole run's to tell."""
        if not (share := self._share):
            return rows
        return [row for row in rows if isinstance(row, Row) and share.may_hold(row)]

    async def _identified(self, row: Row | BadRow) -> tuple[Row | BadRow, Job | None]:
        if isinstance(row, BadRow):
            return row, None
        try:
            return row, await _patiently(make_job)(row.image, row.params, row.variant, self.store)
        except SourceError as error:
            return BadRow(row.number, error.message, row.id, row.shown, type(error).__name__), None
        except InvalidRequestError as error:
            return BadRow(row.number, error.message, row.id, row.shown), None

    def _refuse_bad_rows(self) -> None:
        table = self.table
        if (bad := table.bad.total()) and (self.options.on_bad_row == "fail" or not table.jobs):
            raise refusal(table.rejected(_NAMED), bad, f"{table.rows:,}", can_be_skipped=bool(table.jobs))

    async def quote(self, *, count_done: bool) -> BatchQuote:
        """What it would cost and what the account holds. Nothing is spent.

        Args:
            count_done: look for what is stored already, job by job; otherwise all jobs are quoted.
        """
        if count_done:
            await self._look_at_all()
        usd, billed = 0.0, 0
        for job, count in self.table.kinds():
            usd += (await self._prices.price(job.request("-"))).usd * count
            billed += count
        self._quote = BatchQuote(
            rows=self.table.rows,
            invalid=self.table.bad["invalid"],
            unusable=self.table.bad["failed"],
            jobs=self.table.jobs,
            done=self.table.done() if count_done else None,
            open=self.table.unbilled("open") if count_done else None,
            failed=self.table.unbilled("failed") if count_done else None,
            billed=billed,
            usd=usd,
            balance_usd=await self._client.balance(),
        )
        return self._quote

    async def afford(self) -> BatchQuote:
        """Refuse what cannot be paid, before the first submission.

        Raises:
            BudgetExceededError: it costs more than ``max_cost_usd``.
            InsufficientCreditsError: it costs more than the account holds.
            RestyleError: the price or the balance cannot be learnt now.
        """
        self._begun = True
        quote = await self.quote(count_done=self._again)
        cap = self.options.max_cost_usd
        enough = quote.balance_usd if cap is None else min(cap, quote.balance_usd)
        if quote.usd > enough + 1e-9 and not self._again:  # only then is it worth a look at every job
            quote = await self.quote(count_done=True)
        figures = f"{quote.billed:,} images to bill cost {quote.usd:g} USD"
        if cap is not None and quote.usd + self.budget.total > cap + 1e-9:
            spent = f" and {self.budget.total:g} USD are spent" if self.budget.total else ""
            raise BudgetExceededError(
                f"max_cost_usd {cap:g}: {figures}{spent}: raise the limit or ask for less; "
                "nothing was submitted"
            )
        if quote.usd > quote.balance_usd + 1e-9:
            raise InsufficientCreditsError(
                f"{figures} and the balance is {quote.balance_usd:g} USD: top up the WaveSpeed account; "
                "nothing was submitted"
            )
        return quote

    async def _look_at_all(self) -> None:
        """Find out, job by job, what is stored, under way or given up already, and who has paid for it."""
        jobs = self.table.between(1, self.table.jobs)
        while some := list(islice(jobs, 500)):
            await map_all(_patiently(self._look), some, _AT_ONCE)
            if self._begun:
                await self._parts.flush_if_due()

    async def _look(self, job: Job) -> None:
        found = await self._find(job)
        if found.ours and self.options.max_cost_usd is not None:
            self.budget.count(found.ours * (await self._prices.price(job.request("-"))).usd)
        if found.metadata:
            self._tell(job, self._done(job, found.metadata, paid=found.ours > 0))
        elif max(found.open_job.recorded, default=0) > (found.letter.last_attempt if found.letter else 0):
            self.table.not_billed(job.key, "open")
        elif found.letter and not self.options.retry_failed:
            self.table.not_billed(job.key, "failed")

    async def _find(self, job: Job) -> _Found:
        metadata, letter, open_job = await self._ledger.look(job)
        claims = [] if metadata else [await self._ledger.claimed(job.key, n) for n in open_job.claimed]
        told = metadata or letter
        makers = [attempt.flow_run_id for attempt in told.attempts if attempt.prediction_id] if told else []
        makers += [claim.flow_run_id for claim in claims if claim]
        return _Found(metadata, letter, open_job, sum(self._is_ours(maker) for maker in makers))

    def _is_ours(self, flow_run_id: str | None) -> bool:
        return flow_run_id is not None and flow_run_id == self.run.flow_run_id

    async def shares(self, of: int) -> list[float]:
        """What the cap leaves to each of so many shards, in USD: what it costs, and its part of the rest.

        Returns:
            The shares, which come to no more than ``max_cost_usd`` together.
        """
        left = (self.options.max_cost_usd or 0.0) - self.budget.total
        costs = [0.0] * of
        for job, count, shard in self.table.kinds_by_shard(of):
            costs[shard - 1] += (await self._prices.price(job.request("-"))).usd * count
        return [left * cost / (sum(costs) or 1.0) for cost in costs]

    # -- carrying it out ------------------------------------------------------------------------

    async def carry_out(
        self, carrier: Carrier, first: int = 1, last: int | None = None, *, fed: asyncio.Event | None = None
    ) -> None:
        """Carry jobs through, side by side, each on its own: nothing waits for the slowest.

        Args:
            carrier: how.
            first, last: numbers of the jobs; all by default.
            fed: set when the last of them has begun, so that those after them may begin, too.
        """
        if carrier.look:  # is never a task, that Prefect would try again
            carrier = replace(carrier, look=_patiently(carrier.look))

        def jobs() -> Iterator[Job]:
            yield from self.table.between(first, last or self.table.jobs)
            if fed:
                fed.set()

        await for_each(lambda job: self._carry(job, carrier), jobs(), self._room)

    async def admit(self, job: Job, attempt: int) -> None:
        """Let an attempt be submitted, within the budget, unless submitting has stopped.

        Raises:
            BudgetExceededError: the cap does not cover it.
            RestyleError: nothing more is submitted; ``stopped`` tells why.
        """
        if self.stopped:
            raise _StoppedError(self.stopped.message)
        await self.budget.take(job, attempt)

    async def _carry(self, job: Job, carrier: Carrier) -> None:
        flight = _Flight()
        try:
            try:
                outcome = await self._outcome(job, carrier, flight)
            except RestyleError as error:
                outcome = await self._failed(job, flight, error)
            self._tell(job, outcome)
            await self._parts.flush_if_due()
        except Exception as error:  # a defect ends this job, not the others
            _log.exception("job %s: unexpected %s", job.key, type(error).__name__)
            failure = RestyleError(f"unexpected {type(error).__name__}: {redact(error)}")
            self._tell(job, self._came_to_nothing(flight, failure, "failed"))
        finally:
            self.budget.close(job)

    async def _outcome(self, job: Job, carrier: Carrier, flight: _Flight) -> JobOutcome:
        """Take a job as far as it goes."""
        submit = partial(self._submit, carrier.submit, flight)
        slot = partial(self._slot, carrier)
        if not self.options.wait:
            return await self._submit_only(job, submit, carrier, flight)
        restyled = await run_job(job, submit, carrier.poll, carrier.download, slot, carrier.look)
        await self._show_source(job)
        return self._restyled(restyled, flight)

    async def _submit(self, step: SubmitStep, flight: _Flight, job: Job, *, after: int) -> Submitted:
        flight.submitted = None  # what was submitted before has come to nothing
        try:
            submitted = await step(job, after=after)
        except RestyleError as error:
            if isinstance(error, _UNBILLED) and not isinstance(error.__context__, AmbiguousSubmissionError):
                self.budget.unsent(job)
            await self._consider(job, error)  # while it holds its place: the next would be refused as well
            raise
        flight.submitted = submitted
        flight.since = flight.since or time.monotonic()
        flight.paid = submitted.fresh or self._is_ours(submitted.flow_run_id)
        if not flight.paid:  # stored already, or submitted by another run
            self.budget.unsent(job, submitted.attempt)
        flight.sent |= flight.paid
        return submitted

    async def _submit_only(
        self, job: Job, submit: SubmitStep, carrier: Carrier, flight: _Flight
    ) -> JobOutcome:
        if carrier.look and (there := await carrier.look(job)) and there.restyled:
            return self._restyled(there.restyled, flight)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._slot(carrier))
            submitted = await submit(job, after=0)
            while await self._may_go_again(job, submitted, carrier):
                submitted = await submit(job, after=submitted.attempt)
            if submitted.restyled:
                return self._restyled(submitted.restyled, flight)
            # The place stays taken until the prediction has ended, or until nobody needs it any more.
            held = stack.pop_all()
        self._holding.add(holding := asyncio.create_task(_hold(held, carrier.poll, job, submitted)))
        holding.add_done_callback(self._holding.discard)
        return JobOutcome(
            "submitted",
            submitted.prediction_id,
            cost_usd=self._prices.cached(job.params) if flight.paid else 0.0,
            attempts=submitted.attempt,
        )

    async def _may_go_again(self, job: Job, submitted: Submitted, carrier: Carrier) -> bool:
        """Whether a prediction that was joined has failed already, in a way that another attempt may mend."""
        if submitted.restyled or submitted.fresh:
            return False
        prediction = await self._client.result(submitted.prediction_id)
        return prediction.status in ENDED_BADLY and not (await carrier.poll(job, submitted)).completed

    @asynccontextmanager
    async def _slot(self, carrier: Carrier) -> AsyncIterator[None]:
        async with self._slots, carrier.slot():
            yield

    async def _failed(self, job: Job, flight: _Flight, error: RestyleError) -> JobOutcome:
        if flight.submitted:
            await self._consider(job, error)
        if isinstance(error, _StoppedError) or (self.stopped and type(error) is type(self.stopped)):
            return self._came_to_nothing(flight, self.stopped or error, "unsubmitted")
        self.passing |= worth_retrying(error)
        still_open = flight.submitted and not isinstance(error, PredictionFailedError)
        return self._came_to_nothing(flight, error, "open" if still_open else "failed")

    async def _consider(self, job: Job, error: RestyleError) -> None:
        """Submit nothing more after an error that every further submission would meet."""
        if self.stopped is None and await self._stops(job, error):
            self.stopped = error

    async def _stops(self, job: Job, error: RestyleError) -> bool:
        """Whether every further submission would end the same way: it may be the matter of one image."""
        if isinstance(error, BudgetExceededError):
            return True
        if not isinstance(error, AuthenticationError | InsufficientCreditsError):
            return False
        try:
            balance = await self._client.balance()
            price = await self._prices.price(job.request("-"), max_age=0.0)
        except AuthenticationError:
            return True
        except RestyleError:
            return False
        return isinstance(error, InsufficientCreditsError) and balance < price.usd

    def _came_to_nothing(self, flight: _Flight, error: RestyleError, status: Status) -> JobOutcome:
        if status == "unsubmitted" and flight.sent:
            status = "failed"  # an earlier attempt was submitted and failed
        submitted = flight.submitted
        return JobOutcome(
            status,
            prediction_id=error.prediction_id or (submitted.prediction_id if submitted else None),
            attempts=submitted.attempt if submitted else None,
            error_type=type(error).__name__,
            error_message=error.message,
        )

    def _restyled(self, restyled: Restyled, flight: _Flight) -> JobOutcome:
        stored = not restyled.cached
        submitted = flight.submitted
        return _kept(
            restyled,
            paid=flight.paid,
            attempts=submitted.attempt if submitted and stored else None,
            seconds=time.monotonic() - flight.since if flight.since and stored else None,
        )

    def _done(self, job: Job, metadata: Metadata, *, paid: bool) -> JobOutcome:
        """What was stored before: by an earlier try of this run, if it has paid for it."""
        return _kept(
            restyled_from(self.store, job, metadata, cached=not paid),
            paid=paid,
            attempts=len(metadata.attempts) if paid else None,
        )

    def _tell(self, job: Job, outcome: JobOutcome) -> None:
        """Write down what became of a job."""
        rows = self.table.settle(job.key, outcome)
        for row in rows:
            self.progress.counts[row.status] += 1
            self.progress.spent_usd += row.cost_usd or 0.0
        if self._begun:  # a dry run leaves nothing
            self._parts.add(rows)
        with suppress(Exception):  # who looks on must not stop what is paid for: a pipe may be closed
            self._on_change(self.progress)

    async def _show_source(self, job: Job) -> None:
        """Keep a small picture of the source, where we hold it. Best effort: it is for the gallery."""
        if self._sources_shown >= _SOURCES_SHOWN:
            return
        try:
            if data := await read_source(job.source, self.store):
                self._sources_shown += 1
                self.table.keep_source(job.key, await asyncio.to_thread(thumbnail, data, 128))
        except Exception:  # the picture that was paid for is stored: nothing here is worth an error
            return

    # -- what other runs do of it ----------------------------------------------------------------

    def learn(self, outcomes: Iterable[tuple[str, JobOutcome]]) -> None:
        """Take over what other runs tell of jobs, by their keys."""
        for key, outcome in outcomes:
            self.table.settle(key, outcome)
        self.progress.counts = Counter(self.table.known())
        self.progress.spent_usd = self.table.stored()[1]
        with suppress(Exception):
            self._on_change(self.progress)

    async def take_stock(self, why: Callable[[Job], RestyleError]) -> None:
        """Find out where the jobs stand of which no run has told anything.

        Args:
            why: nothing was told of a job.

        Raises:
            StoreError: the store cannot be read now.
        """
        jobs = self.table.between(1, self.table.jobs)
        while some := list(islice(jobs, 500)):
            for job, found in zip(some, await map_all(_patiently(self._find), some, _AT_ONCE), strict=True):
                self._tell(job, await self._standing(job, found, why(job)))

    async def _standing(self, job: Job, found: _Found, why: RestyleError) -> JobOutcome:
        if found.metadata:
            return self._done(job, found.metadata, paid=found.ours > 0)
        if found.letter and not found.open_job.latest:
            why = found.letter.as_error()
            return self._came_to_nothing(_Flight(), why, "failed")
        self.passing |= worth_retrying(why)
        attempt = found.open_job.latest
        record = await self._ledger.recorded(job.key, attempt) if attempt in found.open_job.recorded else None
        return JobOutcome(
            "open" if attempt else "unsubmitted",
            prediction_id=record.prediction_id if record else None,
            attempts=attempt or None,
            error_type=type(why).__name__,
            error_message=why.message,
        )

    async def show_pictures(self) -> None:
        """Keep small pictures of what other runs have stored. Best effort: they are for the gallery."""
        made = [
            (job, place, uri) for job, uris in self.table.made(_MADE_SHOWN) for place, uri in enumerate(uris)
        ]
        await for_each(self._show_output, made, _AT_ONCE)
        await for_each(self._show_source, {job.key: job for job, _, _ in made}.values(), _AT_ONCE)

    async def _show_output(self, made: tuple[Job, int, str]) -> None:
        job, place, uri = made
        with suppress(Exception):
            if data := await self.store.get(uri.removeprefix(f"{self.store.uri}/")):
                self.table.keep_thumbnail(job.key, place, await asyncio.to_thread(thumbnail, data, 128))

    # -- the account ----------------------------------------------------------------------------

    async def close(self) -> Summary:
        """Write the account; of a shard, what the whole run needs for its own.

        Raises:
            StoreError: it cannot be written now.
        """
        seconds = time.monotonic() - self.progress.started
        pictures, spent = self.table.stored()
        summary = Summary(
            flow_run_id=self.run.flow_run_id,
            flow_run_name=self.run.flow_run_name,
            manifest=self._manifest,
            output=self.store.uri,
            account=f"{self.store.uri_of(self._share.shard.folder if self._share else self.folder)}/",
            started=self._started,
            ended=now(),
            rows=self.table.rows,
            counts=self.table.counts(),
            errors=self.table.errors(),
            jobs=self.table.jobs,
            quoted_usd=self._quote.usd if self._quote else None,
            spent_usd=round(spent, 6),
            balance_usd=self._quote.balance_usd if self._quote else None,
            latency_p50=self.table.latency(0.5),
            latency_p95=self.table.latency(0.95),
            images=pictures,
            images_per_minute=pictures / seconds * 60 if pictures else None,
            seconds=seconds,
        )
        if self._share:
            await self._parts.flush()
            return summary
        await write_account(self.store, self.folder, self.table.account, summary)
        await self._parts.remove()  # what they told is in the account now
        return summary

    def verdict(self, summary: Summary) -> RestyleError | None:
        """Why the run counts as failed, in one line; None when it does not."""
        counts = summary.counts
        account = f"the account is in {summary.account}"
        kept = counts.get("stored", 0) + counts.get("done", 0)
        unsubmitted = counts.get("unsubmitted", 0)
        if self.stopped:
            stopped: RestyleError = type(self.stopped)(
                f"{self.stopped.message} ({kept:,} of {summary.rows:,} rows are stored, {unsubmitted:,} were "
                f"not submitted; {account})"
            )
            return stopped
        # where nothing stopped it, unsubmitted are the rows of a chunk that could not be run
        failed = counts.get("failed", 0) + counts.get("open", 0) + unsubmitted
        if failed > self.options.max_failed * summary.rows:
            by_name = summary.errors | ({"unsubmitted": unsubmitted} if unsubmitted else {})
            told = ", ".join(f"{count:,} {name}" for name, count in by_name.items())
            return BatchFailedError(
                f"{failed:,} of {summary.rows:,} rows failed ({told}), more than max_failed "
                f"{self.options.max_failed:g} allows; {kept:,} are stored; {account}",
                retryable=self.passing,
            )
        return None


@dataclass
class _Found:
    """What the ledger holds of a job, and how many of its attempts this run has paid for."""

    metadata: Metadata | None
    letter: DeadLetter | None
    open_job: OpenJob
    ours: int


class _StoppedError(RestyleError):
    """Nothing more is submitted."""


@dataclass
class _Flight:
    """How far a job has come in this run."""

    submitted: Submitted | None = None
    since: float | None = None
    paid: bool = False  # by this run
    sent: bool = False  # some attempt was submitted by this run


def _kept(
    restyled: Restyled, *, paid: bool, attempts: int | None = None, seconds: float | None = None
) -> JobOutcome:
    return JobOutcome(
        "done" if restyled.cached else "stored",
        prediction_id=restyled.prediction_id,
        outputs=[output.uri for output in restyled.outputs if output.uri],
        metadata_uri=restyled.metadata_uri,
        cost_usd=restyled.cost_usd if paid else 0.0,
        attempts=attempts,
        seconds=seconds,
    )


async def _hold(place: AsyncExitStack, poll: PollStep, job: Job, submitted: Submitted) -> None:
    async with place:
        with suppress(RestyleError):  # settle will meet it, too
            await poll(job, submitted)


def refusal(bad: Sequence[BadRow], count: int, rows: str, *, can_be_skipped: bool) -> ManifestError:
    """Why a manifest with bad rows is refused.

    Args:
        bad: the first of them.
        count: how many there are.
        rows: among how many, as a text.
        can_be_skipped: there are others.
    """
    named = "; ".join(f"row {row.number}: {row.reason}" for row in bad[:_NAMED])
    more = f"; and {count - _NAMED:,} more" if count > _NAMED else ""
    what = "mend them" + (", or skip them with on_bad_row=skip" if can_be_skipped else "")
    return ManifestError(
        f"{count:,} of {rows} rows cannot be used: {named}{more}: {what}; nothing was submitted"
    )


def account_folder(started: datetime, run_id: str) -> str:
    """Where below the output a run's account is."""
    return f"runs/dt={started:%Y-%m-%d}/{run_id}"
