"""What a batch would cost, and whether it can be paid: without an API, a store or a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.ledger_view import JobState, LedgerView
from prefect_wavespeed.batch.manifest.rows import BadRow
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.outcome import JobOutcome
from prefect_wavespeed.batch.progress import Recorder
from prefect_wavespeed.batch.quoting import Quoting
from prefect_wavespeed.batch.shards import lot
from prefect_wavespeed.batch.survey import Survey
from prefect_wavespeed.errors import BudgetExceededError, InsufficientCreditsError
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.records import DeadLetter, Metadata, OpenJob
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.storage.store import Store
from tests.support.jobs import job_of, make_row

DONE = cast("Metadata", SimpleNamespace())
FAILED = cast("DeadLetter", SimpleNamespace(last_attempt=1))


def state(
    metadata: Metadata | None = None,
    dead_letter: DeadLetter | None = None,
    recorded: Sequence[int] = (),
    paid: int = 0,
) -> JobState:
    attempts: dict[int, Any] = dict.fromkeys(recorded)
    return JobState(metadata, dead_letter, OpenJob(claimed=attempts, recorded=attempts), paid)


@dataclass
class World:
    """An API with prices and a balance, and a ledger with states of jobs."""

    balance_usd: float = 100.0
    states: dict[str, JobState] = field(default_factory=dict)
    table: JobTable = field(default_factory=JobTable)

    async def balance(self) -> float:
        return self.balance_usd

    async def price(self, request: ReduxRequest) -> Quote:
        return Quote(usd=0.025 * request.num_images)

    def quoting(self, options: BatchOptions | None = None) -> tuple[Quoting, Budget]:
        options = options or BatchOptions()
        client = cast("WaveSpeedClient", self)
        prices = PriceCache(client)
        budget = Budget(options.max_cost_usd, prices)
        recorder = Recorder(self.table, cast("Any", None), lambda _: None)
        ledger = cast("LedgerView", Ledger(self))
        survey = Survey(self.table, ledger, cast("Store", None))  # few jobs: it reads nothing but the ledger
        return Quoting(client, prices, budget, self.table, ledger, survey, recorder, options), budget

    def fill(self, count: int, **params: Any) -> list[Job]:
        first = self.table.row_count + 1
        rows = [make_row(number, **params) for number in range(first, first + count)]
        for row in rows:
            self.table.add([(row, job_of(row))])
        return [job_of(row) for row in rows]


@dataclass
class Ledger:
    world: World

    async def states(self, jobs: Sequence[Job], *, done: bool = False) -> list[JobState]:
        return [self.world.states.get(job.key, state()) for job in jobs]

    async def remove_leftovers(self, job: Job, found: JobState) -> None:
        pass

    def stored_outcome(self, job: Job, metadata: Metadata, found: JobState) -> JobOutcome:
        return JobOutcome("stored" if found.paid_attempts else "done", cost_usd=0.025 * found.paid_attempts)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.table.close()


async def test_all_jobs_of_which_the_ledger_holds_nothing_are_quoted(world: World) -> None:
    world.fill(4)
    world.fill(2, num_images=3)
    world.table.add_bad([BadRow(7, "wrong")])
    world.table.add_bad([BadRow(8, "gone", error_type="SourceError")])
    quote = await world.quoting()[0].afford()
    assert (quote.rows, quote.invalid, quote.unusable, quote.jobs) == (8, 1, 1, 6)
    assert (quote.billed, quote.balance_usd) == (6, 100)
    assert quote.usd == pytest.approx(0.25)
    assert (quote.done, quote.open, quote.failed) == (0, 0, 0)


async def test_what_is_stored_submitted_or_failed_is_not_quoted(world: World) -> None:
    done, submitted, failed, again, _ = (job.key for job in world.fill(5))
    world.states = {
        done: state(DONE),
        submitted: state(recorded=[1]),
        failed: state(dead_letter=FAILED, recorded=[1]),
        again: state(dead_letter=FAILED, recorded=[1, 2]),  # a later attempt than the dead letter is about
    }
    quote = await world.quoting()[0].quote()
    assert (quote.done, quote.open, quote.failed, quote.billed) == (1, 2, 1, 1)
    world.states.pop(done)
    retried = await world.quoting(BatchOptions(retry_failed=True))[0].quote()
    assert (retried.done, retried.open, retried.billed) == (1, 2, 1)


async def test_failed_jobs_are_quoted_if_they_are_submitted_again(world: World) -> None:
    world.states = {job.key: state(dead_letter=FAILED) for job in world.fill(3)}
    quote = await world.quoting(BatchOptions(retry_failed=True))[0].quote()
    assert (quote.failed, quote.billed) == (0, 3)


async def test_what_is_stored_is_not_paid_for_again_out_of_the_cap(world: World) -> None:
    world.states = {job.key: state(DONE) for job in world.fill(10)[:6]}
    quote = await world.quoting(BatchOptions(max_cost_usd=0.1))[0].afford()
    assert (quote.done, quote.billed) == (6, 4)


REFUSED: list[tuple[float, float | None, type[Exception], str]] = [
    (100, 0.2, BudgetExceededError, r"max_cost_usd 0\.2: 10 images to bill cost 0\.25 USD: raise the limit"),
    (0.2, None, InsufficientCreditsError, r"10 images to bill cost 0\.25 USD and the balance is 0\.2 USD"),
    (0.2, 5, InsufficientCreditsError, r"the balance is 0\.2 USD: top up"),
]


@pytest.mark.parametrize(("balance", "cap", "error", "says"), REFUSED)
async def test_what_costs_more_than_the_cap_or_the_balance_is_refused_with_both_figures(
    balance: float, cap: float | None, error: type[Exception], says: str, world: World
) -> None:
    world.balance_usd = balance
    world.fill(10)
    with pytest.raises(error, match=says):
        await world.quoting(BatchOptions(max_cost_usd=cap))[0].afford()


@pytest.mark.parametrize(("cap", "balance"), [(0.25, 100), (None, 0.25)])
async def test_the_exact_price_is_enough(cap: float | None, balance: float, world: World) -> None:
    world.balance_usd = balance
    world.fill(10)
    await world.quoting(BatchOptions(max_cost_usd=cap))[0].afford()


async def test_what_an_earlier_try_of_the_run_has_paid_counts_against_the_cap(world: World) -> None:
    jobs = world.fill(4)
    world.states = {jobs[0].key: state(DONE, paid=2), jobs[1].key: state(recorded=[1], paid=1)}
    quoting, budget = world.quoting(BatchOptions(max_cost_usd=0.1))
    with pytest.raises(BudgetExceededError, match=r"2 images to bill cost 0\.05 USD and 0\.075 USD are"):
        await quoting.afford()
    assert budget.total == 0.075
    assert world.table.report.spent_usd() == 0.05


@pytest.mark.parametrize("of", [2, 3, 7, 100])
@pytest.mark.parametrize("params", [dict, lambda: {"num_images": 3}], ids=["one", "three"])
async def test_shares_cover_their_quotes_and_together_no_more_than_the_cap(
    of: int, params: Callable[[], dict[str, Any]], world: World
) -> None:
    jobs = [*world.fill(17), *world.fill(5, **params())]
    costs = [0.0] * of
    for job in jobs:
        costs[lot(job.source.uri) % of] += 0.025 * job.params.num_images
    for cap in (sum(costs), 3.0, 123.456):
        shares = await world.quoting(BatchOptions(max_cost_usd=cap))[0].shares_of_cap(cap, of)
        assert sum(shares) == pytest.approx(cap)
        assert sum(shares) <= cap + 1e-9
        assert all(share >= cost - 1e-9 for share, cost in zip(shares, costs, strict=True))
        assert all(not share for share, cost in zip(shares, costs, strict=True) if not cost)
