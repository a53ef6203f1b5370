"""A batch: a list of jobs, carried out concurrently, and a report of the outcome of each.

    async with Batch(client, store, run, folder, options) as batch:
        await batch.read(manifest)      # every row is checked, before anything is spent
        await batch.afford()            # quote and balance, before the first submission
        await batch.carry_out(carrier)
        summary = await batch.close()   # the report is written
        error = batch.verdict(summary)

A job that fails never stops the others. Three things stop submitting: the cap is reached, the key is refused,
the account is empty. Jobs in flight are finished and stored all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from datetime import date, datetime
from typing import Self

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.batch.gate import Gate
from prefect_wavespeed.batch.job_runner import Carrier, JobRunner
from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.ledger_view import LedgerView
from prefect_wavespeed.batch.manifest.columns import say_columns
from prefect_wavespeed.batch.manifest.partition import filled
from prefect_wavespeed.batch.manifest.read import Manifest, read_manifest, safe_name
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.outcome import rebuilt_error
from prefect_wavespeed.batch.patience import patiently
from prefect_wavespeed.batch.progress import DONE, RESTYLING, OnProgress, Progress, Recorder
from prefect_wavespeed.batch.quoting import BatchQuote, Quoting
from prefect_wavespeed.batch.report.parts import ReportParts
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.batch.report.thumbnails import GalleryThumbnails
from prefect_wavespeed.batch.report.write import write_report
from prefect_wavespeed.batch.shards import Share
from prefect_wavespeed.batch.survey import Survey
from prefect_wavespeed.concurrency import for_each, map_all
from prefect_wavespeed.errors import (
    BatchFailedError,
    InvalidRequestError,
    ManifestError,
    RestyleError,
    ScratchError,
    SourceError,
    StoreError,
    worth_retrying,
)
from prefect_wavespeed.job import Job, RunInfo
from prefect_wavespeed.ledger.ledger import Ledger, now
from prefect_wavespeed.sources.objects import is_served
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

_CONCURRENT_ROWS = 32  # whose images are looked up
_SHOWN_BAD_ROWS = 5  # in an error

_log = logging.getLogger(__name__)


class Batch:
    """A batch on one API and one store.

    Args:
        client: the API.
        store: where the outputs go.
        run: who carries it out.
        folder: where in the store the report goes (``layout.run``, ``Shard.path``).
        options: what is asked for.
        prices: what jobs cost, shared with the steps; its own by default.
        since: when the first try of the run began, if this is a later one: what has been stored or submitted
            since then may be its own, and counts against the cap.
        share: the jobs to carry out, if other runs carry out the rest. No report is written then, but its
            parts are left in ``folder`` for the whole run.
        on_progress: called whenever some more rows have an outcome.

    Attributes:
        table: its rows and jobs.
        budget: what is spent.
        gate: admits attempts; knows why submitting has stopped.
        ledger: what the ledger holds of its jobs.
        quoting: what it would cost.
        recorder: records outcomes.
        thumbnails: of the gallery.
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
        since: datetime | None = None,
        share: Share | None = None,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self.store = store
        self.run = run
        self.folder = folder
        self.options = options
        self._share = share
        self._manifest = ""
        self._day: date | None = None
        self._quote: BatchQuote | None = None
        self._started = now()
        prices = prices or PriceCache(client)
        self.table = JobTable()
        self._parts = ReportParts(store, folder)
        self.recorder = Recorder(self.table, self._parts, on_progress)
        self.thumbnails = GalleryThumbnails(self.table, store)
        self.ledger = LedgerView(Ledger(store), run.flow_run_id)
        self.budget = Budget(options.max_cost_usd, prices)
        self.gate = Gate(client, prices, self.budget)
        survey = Survey(self.table, self.ledger, store, since, share.new if share else None)
        self.quoting = Quoting(
            client, prices, self.budget, self.table, self.ledger, survey, self.recorder, options
        )
        self._runner = JobRunner(client, options, prices, self.budget, self.gate, self.ledger)
        # Beside those in flight: one waiting for each slot that becomes free, and those that download.
        self._room = asyncio.Semaphore(options.concurrency + max(16, options.concurrency // 2))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.aclose()
        await self._parts.flush()
        self.table.close()
        await self.store.discard_if_empty()  # of a dry run, or a manifest that is refused

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.recorder.progress

    async def read(self, manifest: Manifest, day: date | None = None) -> None:
        """Read the whole manifest and check every row.

        Args:
            manifest: a file, ``s3://…``, an https URL, or images; see ``read_manifest``.
            day: what is filled in if it is a template such as ``s3://bucket/in/dt={date}/``.

        Raises:
            ManifestError: it cannot be read, is empty, or has bad rows that are not to be skipped.
            StoreError, UnsafeStoreError: the store cannot be relied on.
        """
        manifest = filled(manifest, day)
        self._manifest, self._day = safe_name(manifest), day
        self.recorder.doing("reading the manifest")
        await self.store.ensure_conditional_put()
        share = self._share
        rows_of = read_manifest(
            manifest,
            self.options.params,
            self.store,
            columns=self.options.manifest_columns,
            left_out=self.table.left_out,
            allow_local=self.options.allow_local,
        )
        async with aclosing(rows_of) as pages:
            async for rows in pages:
                self.recorder.doing(f"checking {counted(self.table.row_count + len(rows), 'image')}")
                identified = await self._identified(self._own(rows))
                if not share:  # the whole run reports bad rows
                    self.table.add_bad(row for row in identified if isinstance(row, BadRow))
                good = (each for each in identified if not isinstance(each, BadRow))
                self.table.add((row, job) for row, job in good if not share or share.holds(job))
        self._refuse_bad_rows()
        self.progress.rows = self.table.row_count
        self.progress.counts.update(self.table.bad_rows)

    def _own(self, rows: Sequence[Row | BadRow]) -> Sequence[Row | BadRow]:
        """The rows to check: of a shard only its own."""
        if not (share := self._share):
            return rows
        return [row for row in rows if isinstance(row, Row) and share.may_hold(row)]

    async def _identified(self, rows: Sequence[Row | BadRow]) -> list[tuple[Row, Job] | BadRow]:
        """Rows with their jobs, and bad ones. Only those whose image has to be looked at take their turns."""
        jobs = {row.number: job for row in rows if isinstance(row, Row) and (job := row.job)}
        unknown = [row for row in rows if isinstance(row, Row) and row.number not in jobs]
        looked_at = iter(await map_all(self._identify, unknown, _CONCURRENT_ROWS))
        found: list[tuple[Row, Job] | BadRow] = []
        for row in rows:
            if isinstance(row, BadRow):
                found.append(row)
            else:
                found.append((row, jobs[row.number]) if row.number in jobs else next(looked_at))
        return found

    async def _identify(self, row: Row) -> tuple[Row, Job] | BadRow:
        try:
            return row, await patiently(make_job)(row.image, row.params, row.variant, self.store, row.source)
        except (SourceError, StoreError) as error:
            if isinstance(error, StoreError) and not await is_served(row.image, self.store):
                raise
            return row.refused(error.message, type(error).__name__)
        except InvalidRequestError as error:
            return row.refused(error.message)

    def _refuse_bad_rows(self) -> None:
        table = self.table
        count = table.bad_rows.total()
        if count and (self.options.on_bad_row == "fail" or not table.job_count):
            raise bad_rows_error(
                table.first_bad_rows(_SHOWN_BAD_ROWS),
                count,
                f"{table.row_count:,}",
                skippable=table.job_count > 0,
            )

    async def quote(self) -> BatchQuote:
        """Find out what is stored, and what the rest would cost. Nothing is spent.

        Raises:
            RestyleError: the price, the balance or the store cannot be read now.
        """
        self.recorder.doing("looking up what is stored")
        self._quote = await self.quoting.quote()
        return self._quote

    def quoted(self) -> Summary:
        """What a dry run returns: the rows as they are now, and what the others would cost. No report."""
        return self._summary().model_copy(update={"report": ""})

    async def afford(self) -> BatchQuote:
        """Refuse what cannot be paid for, before the first submission.

        Raises:
            BudgetExceededError: it costs more than ``max_cost_usd``.
            InsufficientCreditsError: it costs more than the account holds.
            RestyleError: the price, the balance or the store cannot be read now.
        """
        self.recorder.writes_parts = True
        self.recorder.doing("looking up what is stored")
        async with self.store.removals.together():
            self._quote = await self.quoting.afford()
        self.table.shrink()
        return self._quote

    async def carry_out(
        self,
        carrier: Carrier,
        first: int = 1,
        last: int | None = None,
        *,
        all_started: asyncio.Event | None = None,
    ) -> None:
        """Carry out jobs concurrently, each by itself: none waits for the slowest.

        Args:
            carrier: the steps.
            first, last: numbers of the jobs; all by default.
            all_started: set when the last of them has started, so that those after them may start, too.
        """
        self.recorder.doing(RESTYLING)

        def jobs() -> Iterator[Job]:
            yield from self.table.unfinished(first, last)
            if all_started:
                all_started.set()

        async with self.store.removals.together():
            await for_each(lambda job: self._carry_out(job, carrier), jobs(), self._room)

    async def _carry_out(self, job: Job, carrier: Carrier) -> None:
        try:
            if self.table.is_new(job.key):
                carrier.expect_new(job)
            outcome = await self._runner.run(job, carrier)
            if self.options.wait:
                await self.thumbnails.keep_source(job, outcome.status)
            self.recorder.record(job.key, outcome)
            await self.recorder.flush_if_due()
        except ScratchError as error:  # no later outcome could be recorded, either
            self.gate.stopped = self.gate.stopped or error
        except Exception as error:  # a defect ends this job's row, not the other jobs
            _log.exception("job %s could not be recorded: %s", job.key, type(error).__name__)
        finally:
            self.budget.close(job)

    async def admit(self, job: Job, attempt: int) -> None:
        """Let an attempt be submitted: within the budget, and unless submitting has stopped.

        Raises:
            BudgetExceededError: the cap does not cover it.
            StoppedError: nothing more is submitted.
        """
        await self.gate.admit(job, attempt)

    async def close(self) -> Summary:
        """Write the report; of a shard, the parts that the whole run needs for its own.

        Raises:
            StoreError: it cannot be written now.
        """
        self.recorder.doing("writing the report")
        summary = self._summary().read_from(self.store)
        if self._share:
            await self._parts.flush()
            return summary
        await write_report(self.store, self.folder, self.table.report.rows, summary)
        await self._parts.remove()
        self.recorder.doing(DONE)
        return summary

    def _summary(self) -> Summary:
        seconds = time.monotonic() - self.progress.started
        report, quote = self.table.report, self._quote
        pictures = report.pictures()
        return Summary(
            flow_run_id=self.run.flow_run_id,
            flow_run_name=self.run.flow_run_name,
            manifest=self._manifest,
            partition=self._day,
            options_digest=self.options.digest,
            output=self.store.uri,
            report=f"{self.store.uri_of(self._share.shard.folder if self._share else self.folder)}/",
            started=self._started,
            ended=now(),
            row_count=self.table.row_count,
            counts=report.counts(),
            errors=report.errors(),
            reasons=report.reasons(),
            warnings=report.warnings(),
            flagged=report.flagged(),
            left_out=dict(self.table.left_out.most_common()),
            carried=dict(self.table.carried),
            jobs=self.table.job_count,
            quoted_usd=quote.usd if quote else None,
            spent_usd=round(report.spent_usd(), 6),
            balance_usd=quote.balance_usd if quote else None,
            latency_p50=report.latency(0.5),
            latency_p95=report.latency(0.95),
            images=pictures,
            images_per_minute=pictures / seconds * 60 if pictures else None,
            seconds=seconds,
        )

    def verdict(self, summary: Summary) -> RestyleError | None:
        """Why the run counts as failed, in one line, with all that is known of it; None if it does not."""
        if error := self._why_failed(summary):
            error.details = tuple(summary.closing_lines)
            error.summary = summary.model_dump(mode="json")
        return error

    def _why_failed(self, summary: Summary) -> RestyleError | None:
        counts, where = summary.counts, f"the report is in {summary.report}"
        unsubmitted = counts.get("unsubmitted", 0)
        if stopped := self.gate.stopped:
            rows = counted(summary.row_count, "row")
            message = f"{stopped.message} (of {rows} {summary.outcome}; {where})"
            return rebuilt_error(type(stopped).__name__, message, stopped.retryable)
        # if nothing stopped it, unsubmitted rows are those of a chunk or a shard that could not run
        failed = counts.get("failed", 0) + counts.get("open", 0) + unsubmitted
        if failed > self.options.max_failed * summary.row_count:
            by_error = summary.errors | ({"unsubmitted": unsubmitted} if unsubmitted else {})
            causes = ", ".join(f"{count:,} {name}" for name, count in by_error.items())
            return BatchFailedError(
                f"{failed:,} of {summary.row_count:,} rows failed ({causes}), more than max_failed "
                f"{self.options.max_failed:g} allows; {summary.outcome}; {where}",
                retryable=any(map(worth_retrying, self.table.report.job_errors())),
            )
        return None


def bad_rows_error(first: Sequence[BadRow], count: int, rows: str, *, skippable: bool) -> ManifestError:
    """The error for a manifest with bad rows.

    Args:
        first: the first of them.
        count: how many there are.
        rows: of how many, as text.
        skippable: there are good rows, too.
    """
    shown = "; ".join(f"row {row.number}: {row.reason}" for row in first[:_SHOWN_BAD_ROWS])
    more = f"; and {count - _SHOWN_BAD_ROWS:,} more" if count > _SHOWN_BAD_ROWS else ""
    more += say_columns(row.reason for row in first[:_SHOWN_BAD_ROWS])
    fix = "fix them" + (", or skip them with on_bad_row=skip" if skippable else "")
    return ManifestError(
        f"{count:,} of {rows} rows cannot be used: {shown}{more}: {fix}; nothing was submitted"
    )
