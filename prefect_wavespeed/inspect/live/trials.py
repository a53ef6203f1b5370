"""The pictures that are taken to see how the API takes their requests: ordinary jobs of the ledger.

Each is billed once, however often and by however many this is run with the same output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    RestyleError,
    StoreError,
)
from prefect_wavespeed.inspect.live.probing_client import SUBMIT, Answer, ProbingClient
from prefect_wavespeed.inspect.live.report import TrialName
from prefect_wavespeed.job import Job, Restyled, RunInfo
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.steps.run_job import make_job, run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.version import package_version
from prefect_wavespeed.words import counted

_PICTURE = Path(str(resources.files("prefect_wavespeed"))) / "examples" / "astronaut.jpg"
_SMALL = ReduxParams(size="512*512")
_ROUNDING = 1e-9  # of sums of prices in USD

UNKNOWN_FIELD = "guidence_scale"
OUT_OF_RANGE = ("guidance_scale", 21)  # of at most 20


@dataclass(frozen=True)
class Trial:
    """A picture to take.

    Attributes:
        variant: one that nobody asks for: an odd request's picture must not pass for an ordinary one.
        odd: what its request has besides, or with another value; the ledger sees an ordinary one.
    """

    name: TrialName
    variant: int
    params: ReduxParams = _SMALL
    odd: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Trial("plain", 110_001)
TRIALS = (
    PLAIN,
    Trial("unknown_field", 110_002, odd={UNKNOWN_FIELD: 5}),
    Trial("out_of_range", 110_003, odd=dict([OUT_OF_RANGE])),
    Trial("base64", 110_004, _SMALL.model_copy(update={"enable_base64_output": True})),
    Trial("sync", 110_005, _SMALL.model_copy(update={"enable_sync_mode": True})),
)
"""In the order in which they are taken, the most telling ones first."""


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        restyled: what is stored of it.
        error: why nothing is.
        answer: to its submission; None where this run sent none.
        price: of it, in USD.
        is_new: this run paid for it.
        not_tried: why nothing was sent: what it would cost.
    """

    trial: Trial
    job: Job
    price: float
    restyled: Restyled | None = None
    error: RestyleError | None = None
    answer: Answer | None = None
    is_new: bool = False
    not_tried: str = ""


@dataclass
class _Purse:
    """What may be spent, and what is, by job and attempt, in USD."""

    limit: float
    spent: dict[tuple[str, int], float] = field(default_factory=dict)
    jobs_paid_now: set[str] = field(default_factory=set)

    @property
    def total(self) -> float:
        return sum(self.spent.values())

    def has(self, usd: float) -> bool:
        """Whether that much is left."""
        return self.total + usd <= self.limit + _ROUNDING

    def give_back(self, key: str) -> None:
        """Nothing was billed for a job by this run."""
        if key in self.jobs_paid_now:
            self.jobs_paid_now.discard(key)
            self.spent = {(job, attempt): usd for (job, attempt), usd in self.spent.items() if job != key}


class TrialRunner:
    """Takes the pictures, within a limit that holds for all runs with this output together.

    Args:
        client: the API.
        store: the output, whose ledger they go through.
        limit_usd: what all of them together may cost.
        on_submitted: awaited when a submission of this run has been answered, beside the waiting for its end.
    """

    def __init__(
        self,
        client: ProbingClient,
        store: Store,
        limit_usd: float,
        on_submitted: Callable[[Trial, Submitted], Awaitable[None]],
    ) -> None:
        self._client = client
        self._store = store
        self._on_submitted = on_submitted
        self._steps = StepSet(client, store, admit=self._admit)
        self._run = RunInfo(flow_run_id=str(uuid4()), package_version=package_version())
        self._purse = _Purse(limit_usd)
        self._jobs: dict[TrialName, Job] = {}
        self._prices: dict[TrialName, float] = {}

    async def prepare(self, refused: Collection[TrialName]) -> tuple[list[Trial], str]:
        """Find out what is there, and what the rest would cost. Nothing is sent to the model.

        Args:
            refused: the trials whose requests the API is known to refuse.

        Returns:
            The trials that are not refused, and in one line what they will cost at most.

        Raises:
            BudgetExceededError: not even the first picture is within the limit.
            InsufficientCreditsError: the account cannot pay for it.
            RestyleError: prices or balance are not known, or the store cannot be used.
        """
        await self._store.ensure_conditional_put()
        trials = [trial for trial in TRIALS if trial.name not in refused]
        missing = [trial for trial in trials if not await self._add(trial)]
        affordable, total = 0, self._purse.total
        for trial in missing:
            price = self._prices[trial.name]
            if total + price <= self._purse.limit + _ROUNDING:
                affordable, total = affordable + 1, total + price
        if PLAIN in missing:
            await self._check_first(self._prices[PLAIN.name])
        return trials, self._describe(len(trials) - len(missing), missing, affordable, total)

    async def take(self, trial: Trial) -> Outcome:
        """Take a picture, unless it would cost too much; or find it as an earlier run left it.

        Raises:
            RestyleError: the key is refused, the store cannot be used, or the ordinary picture failed.
        """
        job, price = self._jobs[trial.name], self._prices[trial.name]
        outcome = partial(Outcome, trial, job, price)
        if not self._has_begun(job) and not self._purse.has(price):
            return outcome(
                not_tried=f"it costs {price:g} USD: --spend {self._purse.total + price:g} tries it"
            )
        self._client.odd = trial.odd
        self._client.forget(SUBMIT)
        try:
            restyled = await run_job(
                job,
                partial(self._steps.submit, run=self._run, max_cost_usd=self._purse.limit),
                partial(self._poll, trial),
                partial(self._steps.download, run=self._run),
            )
        except RestyleError as error:
            if isinstance(error, AuthenticationError | ConfigurationError | StoreError):
                raise
            is_open = error.may_be_billed or bool((await Ledger(self._store).open_job(job.key)).claimed)
            if not is_open:
                self._purse.give_back(job.key)
            return outcome(error=error, answer=self._client.answer_to(SUBMIT), is_new=self._is_new(job))
        finally:
            self._client.odd = {}
        return outcome(restyled, answer=self._client.answer_to(SUBMIT), is_new=self._is_new(job))

    # -- what it costs ----------------------------------------------------------------------------

    async def _add(self, trial: Trial) -> bool:
        """Learn the price of a trial, and what the ledger has of it; whether it is paid already."""
        job = await make_job(str(_PICTURE), trial.params, trial.variant, self._store)
        price = await self._steps.prices.usd(job.request("https://example.com/image.jpg"), required=True)
        self._jobs[trial.name], self._prices[trial.name] = job, price or 0.0
        look = await Ledger(self._store).look(job)
        if look.side_car:
            self._purse.spent[job.key, 0] = look.side_car.cost.usd or price or 0.0
        else:
            # a claim may stand for a submission whose answer was lost
            for attempt in {*look.open_job.claimed, *look.open_job.recorded}:
                self._purse.spent[job.key, attempt] = price or 0.0
        return look.side_car is not None or look.letter is not None or self._has_begun(job)

    def _has_begun(self, job: Job) -> bool:
        return any(key == job.key for key, _ in self._purse.spent)

    def _is_new(self, job: Job) -> bool:
        return job.key in self._purse.jobs_paid_now

    async def _check_first(self, price: float) -> None:
        if not self._purse.has(price):
            raise BudgetExceededError(
                f"--spend {self._purse.limit:g}: one picture costs {price:g} USD, and at least one is needed"
            )
        balance = await self._client.balance()
        if balance + _ROUNDING < price:
            raise InsufficientCreditsError(
                f"one picture costs {price:g} USD and the balance is {balance:g} USD: top up the account"
            )

    def _describe(self, paid: int, missing: list[Trial], affordable: int, total: float) -> str:
        limit, spent = self._purse.limit, self._purse.total
        used = f"{counted(paid, 'picture')} of an earlier run ({spent:.6g} USD)"
        if not missing:
            return f"nothing is billed: {used} will do"
        cost = f"at most {counted(affordable, 'picture')}, {total - spent:.6g} USD"
        allowed = f"--spend allows {limit:g} USD" + (f", {used} included" if paid else "")
        every = spent + sum(self._prices[trial.name] for trial in missing)
        more = f"; all {len(missing)} need --spend {every:.6g}" if affordable < len(missing) else ""
        return f"{cost}: {allowed}{more}"

    async def _admit(self, job: Job, attempt: int, usd: float | None) -> None:
        """Admit an attempt if it is within the limit.

        Raises:
            BudgetExceededError: it is not.
        """
        price = usd or 0.0
        if (job.key, attempt) not in self._purse.spent and not self._purse.has(price):
            raise BudgetExceededError(
                f"another attempt costs {price:g} USD, and --spend {self._purse.limit:g} does not allow it"
            )
        self._purse.spent[job.key, attempt] = price
        self._purse.jobs_paid_now.add(job.key)

    async def _poll(self, trial: Trial, job: Job, submitted: Submitted) -> Polled:
        watching = asyncio.ensure_future(
            self._on_submitted(trial, submitted) if submitted.fresh else asyncio.sleep(0)
        )
        try:
            polled = await self._steps.poll(job, submitted)
            await watching
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        return polled
