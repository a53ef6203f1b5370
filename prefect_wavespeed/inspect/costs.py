"""What an output has cost: what its side-cars say against what WaveSpeedAI billed.

Memory holds an id and a price for each prediction; everything else is added up as it is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from heapq import nlargest
from math import fsum, isclose
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from prefect_wavespeed.api.billing import Billing
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.inspect.jobs import MARGIN, contents, young
from prefect_wavespeed.ledger.ledger import now
from prefect_wavespeed.ledger.records import DeadLetter, Metadata, Record
from prefect_wavespeed.retry import retry
from prefect_wavespeed.storage.store import Store

TOLD = 1_000
"""Differences of a kind that are kept; of more, only number and sum are."""

_PAGE = 100

Whose = Literal["open", "failed", "earlier attempt", "not of this output"]
"""Where a billed prediction without a side-car belongs to."""


class Sum(BaseModel):
    """Jobs, and what their side-cars say that they cost."""

    jobs: int = 0
    pictures: int = 0
    usd: float = Field(default=0.0, description="As recorded; jobs without a recorded price count as 0.")

    def add(self, pictures: int, usd: float | None) -> None:
        """Add a job."""
        self.jobs += 1
        self.pictures += pictures
        self.usd = _rounded(self.usd + (usd or 0.0))


class RunSum(Sum):
    """The jobs that one flow run finished."""

    flow_run_name: str | None
    flow_run_id: str | None


class Difference(BaseModel):
    """A prediction of which the two accounts say different things."""

    prediction_id: str
    recorded_usd: float | None = Field(default=None, description="None where no price was known.")
    billed_usd: float | None = None
    whose: Whose | None = Field(default=None, description="Of a prediction that has no side-car.")


class Differences(BaseModel):
    """Differences of one kind."""

    predictions: int = 0
    usd: float = Field(default=0.0, description="What they make together.")
    told: list[Difference] = Field(default_factory=list, description=f"The first {TOLD}.")

    def add(self, difference: Difference, usd: float) -> None:
        """Add one."""
        self.predictions += 1
        self.usd = _rounded(self.usd + usd)
        if len(self.told) < TOLD:
            self.told.append(difference)


class Costs(BaseModel):
    """What an output has cost."""

    since: datetime | None = Field(description="Of what was stored, or billed, from then on.")
    total: Sum = Field(default_factory=Sum)
    days: dict[str, Sum] = Field(
        default_factory=dict, description="By the UTC day on which the pictures were stored."
    )
    runs: list[RunSum] = Field(
        default_factory=list, description=f"By the run that stored them: the {TOLD} dearest."
    )
    runs_left_out: int = 0
    unpriced: int = Field(default=0, description="Jobs whose price was not known when they were submitted.")
    unreadable: int = Field(default=0, description="Side-cars of another version; they are in no sum.")

    billed_usd: float = Field(
        default=0.0, description="Billed for this output's predictions, refunds taken off."
    )
    agreed: int = Field(default=0, description="Predictions of which both accounts say the same.")
    differ: Differences = Field(
        default_factory=Differences, description="Billed otherwise than recorded: billed minus recorded."
    )
    unbilled: Differences = Field(default_factory=Differences, description="Recorded, and not billed.")
    refunded: Differences = Field(
        default_factory=Differences, description="Given back, or billed as 0: what was recorded of it."
    )
    without_side_car: dict[Whose, Differences] = Field(
        default_factory=dict, description="Billed, and no side-car tells of it."
    )


async def costs(client: WaveSpeedClient, store: Store, since: datetime | None = None) -> Costs:
    """Add up what an output has cost, and compare it with the account's billing.

    Args:
        client: of the account that paid.
        store: the output.
        since: leave out what was stored and billed earlier.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
        RestyleError: WaveSpeedAI does not tell what it billed.
    """
    return await _Accountant(client, store, since).run()


class _Accountant:
    """One comparison."""

    def __init__(self, client: WaveSpeedClient, store: Store, since: datetime | None) -> None:
        self._client = client
        self._store = store
        self._since = since
        self._costs = Costs(since=since)
        self._recorded: dict[str, float | None] = {}  # predictions with a side-car, and what it says
        self._others: dict[str, Whose] = {}  # this output's predictions without one
        self._billed: dict[str, float] = {}  # what was billed for both
        self._runs: dict[str, _Run] = {}
        self._earliest = since

    async def run(self) -> Costs:
        began = now()
        # In the order in which jobs move on, so that none of them is missed on its way.
        await self._each("open/", ".prediction.json", self._open)
        await self._each("failed/", ".json", self._failed)
        await self._each("images/", "/metadata.json", self._side_car)
        if self._earliest:
            await self._bill(self._earliest, began)
        self._compare()
        dearest = nlargest(TOLD, self._runs.items(), key=lambda item: item[1].usd)
        self._costs.runs = [run.told(run_id) for run_id, run in dearest]
        self._costs.runs_left_out = len(self._runs) - len(dearest)
        self._costs.days = dict(sorted(self._costs.days.items()))
        return self._costs

    # -- what the output says -------------------------------------------------------------------

    async def _each(self, prefix: str, ending: str, take: Callable[[bytes], None]) -> None:
        """Read all objects of a kind that are as young as what is asked for, a number of them at once."""
        async for entries in young(self._store, prefix, ending, self._since):
            async for data in contents(self._store, entries):
                take(data)

    def _open(self, data: bytes) -> None:
        with suppress(ValidationError):
            record = Record.model_validate_json(data)
            self._others[record.prediction_id] = "open"
            self._saw(record.submitted_at)

    def _failed(self, data: bytes) -> None:
        with suppress(ValidationError):
            letter = DeadLetter.model_validate_json(data)
            ids = {letter.error.prediction_id, *(attempt.prediction_id for attempt in letter.attempts)}
            self._others.update((one, "failed") for one in ids if one)
            self._saw(min((attempt.claimed_at for attempt in letter.attempts), default=None))

    def _side_car(self, data: bytes) -> None:
        try:
            metadata = Metadata.model_validate_json(data)
        except ValidationError:
            self._costs.unreadable += 1
            return
        if self._since and metadata.times.stored < self._since:
            return
        prediction, usd, run = metadata.prediction, metadata.cost.usd, metadata.run
        for attempt in metadata.attempts:
            if attempt.prediction_id:
                self._others[attempt.prediction_id] = "earlier attempt"
        self._others.pop(prediction.id, None)
        self._recorded[prediction.id] = usd
        self._saw(prediction.created_at or metadata.times.claimed or metadata.times.stored)

        pictures = len(metadata.outputs)
        self._costs.unpriced += usd is None
        self._costs.total.add(pictures, usd)
        day = metadata.times.stored.astimezone(UTC).date().isoformat()
        self._costs.days.setdefault(day, Sum()).add(pictures, usd)
        self._runs.setdefault(run.flow_run_id or "", _Run(run.flow_run_name)).add(pictures, usd)

    def _saw(self, moment: datetime | None) -> None:
        """Remember from when on the billing is of interest."""
        if moment and (self._earliest is None or moment < self._earliest):
            self._earliest = moment

    # -- what WaveSpeedAI says ------------------------------------------------------------------

    async def _bill(self, earliest: datetime, began: datetime) -> None:
        """Read the billing, and keep what is of this output.

        What is of nobody's is told from ``since`` on, or from this output's first prediction on; but not
        what was billed while this was under way: its record may have been written after we looked.
        """
        strangers_from = self._since or earliest
        async for billing in self._records(earliest - MARGIN):
            one, usd = billing.prediction.uuid, billing.usd
            if not one or usd is None:
                continue
            if one in self._recorded or one in self._others:
                self._billed[one] = self._billed.get(one, 0.0) + usd
            elif usd and (billing.created_at is None or strangers_from <= billing.created_at <= began):
                self._without_side_car("not of this output", one, usd)

    async def _records(self, start: datetime) -> AsyncIterator[Billing]:
        """All billing records from a moment on. One that comes with two pages is told once."""
        before: set[str] = set()
        page = 1
        while True:
            items = await self._page(page, start)
            for item in items:
                if not item.uuid or item.uuid not in before:
                    yield item
            now_there = {item.uuid for item in items}
            if len(items) < _PAGE or now_there == before:
                return
            before, page = now_there, page + 1

    async def _page(self, page: int, start: datetime) -> list[Billing]:
        ask = partial(self._client.billings, page=page, page_size=_PAGE, start_time=start)
        return (await retry(ask, tries=5)).items

    # -- both -----------------------------------------------------------------------------------

    def _compare(self) -> None:
        told = self._costs
        for one, recorded in self._recorded.items():
            billed = self._billed.get(one)
            difference = Difference(prediction_id=one, recorded_usd=recorded, billed_usd=billed)
            if billed is None:
                told.unbilled.add(difference, recorded or 0.0)
            elif recorded is not None and _same(recorded, billed):
                told.agreed += 1
            elif _same(billed, 0.0):
                told.refunded.add(difference, recorded or 0.0)
            else:
                told.differ.add(difference, billed - (recorded or 0.0))
        for one, whose in self._others.items():
            billed = self._billed.get(one)
            if billed is None:
                continue
            if _same(billed, 0.0):
                told.refunded.add(Difference(prediction_id=one, billed_usd=billed, whose=whose), 0.0)
            else:
                self._without_side_car(whose, one, billed)
        told.billed_usd = _rounded(fsum(self._billed.values()))

    def _without_side_car(self, whose: Whose, prediction_id: str, usd: float) -> None:
        difference = Difference(prediction_id=prediction_id, billed_usd=_rounded(usd), whose=whose)
        self._costs.without_side_car.setdefault(whose, Differences()).add(difference, usd)


@dataclass(slots=True)
class _Run:
    """What one run stored; there may be as many as there are jobs."""

    name: str | None
    jobs: int = 0
    pictures: int = 0
    usd: float = 0.0

    def add(self, pictures: int, usd: float | None) -> None:
        self.jobs += 1
        self.pictures += pictures
        self.usd = _rounded(self.usd + (usd or 0.0))

    def told(self, run_id: str) -> RunSum:
        return RunSum(
            jobs=self.jobs,
            pictures=self.pictures,
            usd=self.usd,
            flow_run_name=self.name,
            flow_run_id=run_id or None,
        )


def _same(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=0.0, abs_tol=1e-6)


def _rounded(usd: float) -> float:
    """Without what binary fractions add: prices have at most six digits."""
    return round(usd, 6)
