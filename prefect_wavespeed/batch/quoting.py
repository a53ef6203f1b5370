"""What a batch would cost, and whether it can be paid, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefect_wavespeed import metrics
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.ledger_view import JobState, LedgerView
from prefect_wavespeed.batch.manifest.left_out import left_out_line
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import Recorder
from prefect_wavespeed.batch.survey import Survey
from prefect_wavespeed.errors import BudgetExceededError, InsufficientCreditsError
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.words import counted

ROUNDING = 1e-9
"""USD by which sums of floats may differ."""


@dataclass(frozen=True)
class BatchQuote:
    """What a batch would cost, before anything is spent.

    Attributes:
        rows: of the manifest.
        invalid: invalid rows, which are skipped.
        unusable: rows whose image cannot be used, which are skipped and count as failed.
        left_out: objects below the manifest's prefix that are no images, by the ending of their names.
        jobs: distinct jobs that the rows ask for.
        done: jobs that are stored already.
        open: jobs whose prediction exists: it is used, and billed again only if it has failed.
        failed: jobs that failed for good earlier and are not submitted again.
        billed: jobs that would be billed, at most.
        usd: what these cost.
        balance_usd: the account's balance.
    """

    rows: int
    invalid: int
    unusable: int
    left_out: dict[str, int]
    jobs: int
    done: int
    open: int
    failed: int
    billed: int
    usd: float
    balance_usd: float

    def lines(self, options: BatchOptions, named: Callable[[str], str] = str) -> list[str]:
        """All of it in words.

        Args:
            options: of the batch.
            named: how people who read this call an option.
        """
        bad, cap = self.invalid + self.unusable, options.max_cost_usd
        skipped = f", {counted(bad, 'bad row')} skipped" if bad else ""
        again = f"{self.failed:,} given up earlier: {named('retry_failed')} tries again"
        lines = [
            f"{counted(self.rows, 'row')}, {counted(self.jobs, 'distinct image')} to make{skipped}",
            *([left_out_line(self.left_out)] if self.left_out else []),
            f"{_are(self.done)} stored already",
            *([f"{_are(self.open)} open: joined, billed again only if failed"] if self.open else []),
            *([again] if self.failed else []),
            f"{self.billed:,} would be billed: {self.usd:g} USD",
            f"balance: {self.balance_usd:g} USD" + ("" if self.usd <= self.balance_usd else ": not enough"),
        ]
        if cap is not None:
            enough = "" if self.usd <= cap else ": not enough"
            lines.append(f"{named('max_cost_usd')}: {cap:g} USD{enough}")
        if self.unusable > options.max_failed * self.rows:
            cannot = f"at least {counted(self.unusable, 'row')} cannot be restyled"
            allowed = f"{named('max_failed')} {options.max_failed:g}"
            lines.append(f"{cannot}: more than {allowed} allows, so it would fail")
        return [*lines, "nothing was spent"]


def _are(count: int) -> str:
    return f"{count:,} {'is' if count == 1 else 'are'}"


class Quoting:
    """Quotes the jobs in a job table.

    Args:
        client: asked for the balance.
        prices: what jobs cost.
        budget: counts what an earlier try of the run has spent.
        table: the jobs.
        ledger: tells what an earlier try of the run has paid for.
        survey: finds out what is stored, submitted or failed.
        recorder: records the jobs that are found to be done.
        options: the cap, and whether failed jobs are submitted again.
    """

    def __init__(
        self,
        client: WaveSpeedClient,
        prices: PriceCache,
        budget: Budget,
        table: JobTable,
        ledger: LedgerView,
        survey: Survey,
        recorder: Recorder,
        options: BatchOptions,
    ) -> None:
        self._client = client
        self._prices = prices
        self._budget = budget
        self._table = table
        self._ledger = ledger
        self._survey = survey
        self._recorder = recorder
        self._options = options

    async def quote(self) -> BatchQuote:
        """Find out what is stored already, what the rest would cost, and what the account holds.

        Raises:
            RestyleError: the price, the balance or the store cannot be read now.
        """
        return await self._quoted(tidies_up=False)

    async def _quoted(self, *, tidies_up: bool) -> BatchQuote:
        async for job, state in self._survey.states():
            await self._note(job, state)
            if tidies_up and state.metadata:
                await self._ledger.remove_leftovers(job, state)
        self._recorder.recount()
        table, usd, billed = self._table, 0.0, 0
        for job, count, _ in table.billable():
            usd += await self._price(job) * count
            billed += count
        return BatchQuote(
            rows=table.row_count,
            invalid=table.bad_rows["invalid"],
            unusable=table.bad_rows["failed"],
            left_out=dict(table.left_out.most_common()),
            jobs=table.job_count,
            done=table.count_stored(),
            open=table.count_unbilled("open"),
            failed=table.count_unbilled("failed"),
            billed=billed,
            usd=usd,
            balance_usd=await self._client.balance(),
        )

    async def afford(self) -> BatchQuote:
        """Refuse what cannot be paid for, before the first submission.

        What a runner that was killed at the very end has left of jobs that are done is removed.

        Raises:
            BudgetExceededError: it costs more than ``max_cost_usd``.
            InsufficientCreditsError: it costs more than the account holds.
            RestyleError: the price, the balance or the store cannot be read now.
        """
        quote, cap = await self._quoted(tidies_up=True), self._options.max_cost_usd
        figures = f"{quote.billed:,} images to bill cost {quote.usd:g} USD"
        if cap is not None and quote.usd + self._budget.total > cap + ROUNDING:
            spent = f" and {self._budget.total:g} USD are spent already" if self._budget.total else ""
            raise BudgetExceededError(
                f"max_cost_usd {cap:g}: {figures}{spent}: raise the limit or restyle fewer images; nothing "
                "was submitted"
            )
        if quote.usd > quote.balance_usd + ROUNDING:
            raise InsufficientCreditsError(
                f"{figures} and the balance is {quote.balance_usd:g} USD: top up the WaveSpeed account; "
                "nothing was submitted"
            )
        return quote

    async def shares_of_cap(self, cap: float, shards: int) -> Sequence[float]:
        """Divide what is left of the cap among shards: each gets what its jobs cost, and a share of the rest.

        Returns:
            USD by shard, together no more than the cap.
        """
        left = cap - self._budget.total
        costs = [0.0] * shards
        for job, count, shard in self._table.billable(shards):
            costs[shard - 1] += await self._price(job) * count
        return [left * cost / (sum(costs) or 1.0) for cost in costs]

    async def _note(self, job: Job, state: JobState) -> None:
        if state.paid_attempts and self._options.max_cost_usd is not None:
            self._budget.count(state.paid_attempts * await self._price(job))
        if state.metadata:
            metrics.FOUND.inc()
            self._table.record(job.key, self._ledger.stored_outcome(job, state.metadata, state))
        elif state.is_submitted:
            self._table.mark_unbilled(job.key, "open")
        elif state.dead_letter and not self._options.retry_failed:
            self._table.mark_unbilled(job.key, "failed")

    async def _price(self, job: Job) -> float:
        return (await self._prices.price(job.request("-"))).usd
