"""What an output has cost, according to its side-cars and according to WaveSpeedAI's billing.

Memory holds an id and a price for each prediction; everything else is added up while it is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from heapq import nlargest
from math import fsum

from pydantic import ValidationError

from prefect_wavespeed.api.billing import Billing
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.concurrency import map_stream
from prefect_wavespeed.errors import UnavailableError
from prefect_wavespeed.inspect.cost_report import MAX_ITEMS, CostReport, Owner, RunSum, Sum, rounded
from prefect_wavespeed.inspect.listing import CLOCK_MARGIN, recent_entries
from prefect_wavespeed.ledger.records import DeadLetter, Metadata, Record
from prefect_wavespeed.retry import retry
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

_CONCURRENCY = 64  # objects that are read at once
_PAGE = 100  # billing records in a call
_PAGES = 10_000  # until they count as endless


async def costs(client: WaveSpeedClient, store: Store, since: datetime | None = None) -> CostReport:
    """Add up what an output has cost, and compare it with the account's billing.

    Args:
        client: of the account that paid.
        store: the output.
        since: leave out what was stored or billed earlier.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
        RestyleError: the billing cannot be read.
    """
    return await _Audit(client, store, since).run()


class _Audit:
    """One comparison."""

    def __init__(self, client: WaveSpeedClient, store: Store, since: datetime | None) -> None:
        self._client = client
        self._store = store
        self._since = since
        self._report = CostReport(since=since)
        self._recorded: dict[str, float | None] = {}  # USD by prediction with a side-car
        self._others: dict[str, Owner] = {}  # this output's predictions without one
        self._quotes: dict[str, float | None] = {}  # USD by prediction, for those that have a quote
        self._billed: dict[str, float] = {}  # USD by prediction, for both
        self._foreign: dict[str, float] = {}  # USD by prediction, for those of others
        self._runs: dict[str, _Run] = {}
        self._earliest = since  # the billing is read from then on

    async def run(self) -> CostReport:
        began = datetime.now(UTC)
        # In the order in which jobs move, so that none is missed while it does.
        await self._read(layout.OPEN, layout.PREDICTION_SUFFIX, self._add_open)
        await self._read(layout.FAILED, layout.DEAD_LETTER_SUFFIX, self._add_failed)
        await self._read(layout.IMAGES, layout.METADATA_SUFFIX, self._add_done)
        if self._earliest:
            await self._read_billing(self._earliest, began)
        report = self._report
        report.compare(self._recorded, self._others, self._billed)
        report.billed_usd = rounded(fsum(self._billed.values()))
        most_expensive = nlargest(MAX_ITEMS, self._runs.items(), key=lambda item: item[1].usd)
        report.runs = [run.as_sum(run_id) for run_id, run in most_expensive]
        report.runs_left_out = len(self._runs) - len(most_expensive)
        report.days = dict(sorted(report.days.items()))
        return report

    # --- the output ---

    async def _read(self, prefix: str, suffix: str, add: Callable[[bytes], None]) -> None:
        """Read all recent objects of one kind, several at once."""
        async for entries in recent_entries(self._store, prefix, suffix, self._since):
            paths = (entry.path for entry in entries)
            async with aclosing(map_stream(self._store.get, paths, _CONCURRENCY)) as contents:
                async for data in contents:
                    if data is not None:  # else the job has moved
                        add(data)

    def _add_open(self, data: bytes) -> None:
        with suppress(ValidationError):
            record = Record.model_validate_json(data)
            self._others[record.prediction_id] = "open"
            self._quotes[record.prediction_id] = record.quoted_usd
            self._include(record.submitted_at)

    def _add_failed(self, data: bytes) -> None:
        with suppress(ValidationError):
            letter = DeadLetter.model_validate_json(data)
            ids = {letter.error.prediction_id, *(attempt.prediction_id for attempt in letter.attempts)}
            self._others.update((prediction_id, "failed") for prediction_id in ids if prediction_id)
            self._include(min((attempt.claimed_at for attempt in letter.attempts), default=None))

    def _add_done(self, data: bytes) -> None:
        try:
            metadata = Metadata.model_validate_json(data)
        except ValidationError:
            self._report.unreadable += 1
            return
        if self._since and metadata.times.stored < self._since:
            return
        prediction, usd = metadata.prediction, metadata.cost.usd
        for attempt in metadata.attempts:
            if attempt.prediction_id:
                self._others[attempt.prediction_id] = "earlier attempt"
                self._quotes[attempt.prediction_id] = usd
        self._others.pop(prediction.id, None)
        self._recorded[prediction.id] = usd
        self._include(prediction.created_at or metadata.times.claimed or metadata.times.stored)

        pictures = len(metadata.outputs)
        self._report.undelivered.add_missing(prediction.id, metadata.request.num_images, pictures, usd)
        self._report.unpriced += usd is None
        self._report.total.add(pictures, usd)
        day = metadata.times.stored.astimezone(UTC).date().isoformat()
        self._report.days.setdefault(day, Sum()).add(pictures, usd)
        run_id, name = _submitter(metadata)
        self._runs.setdefault(run_id or "", _Run(name)).add(pictures, usd)

    def _include(self, moment: datetime | None) -> None:
        """Read the billing from this moment on, or earlier."""
        if moment and (self._earliest is None or moment < self._earliest):
            self._earliest = moment

    # --- the billing ---

    async def _read_billing(self, earliest: datetime, began: datetime) -> None:
        """Read the billing, and keep what belongs to this output.

        Predictions of others are reported from ``since`` on, or from this output's first prediction on; but
        not those billed after this began: their records may have been written after they were looked for.
        """
        others_from = self._since or earliest
        async for billing in _billings(self._client, earliest - CLOCK_MARGIN):
            prediction_id = billing.prediction.uuid
            quoted = self._recorded.get(prediction_id, self._quotes.get(prediction_id))
            usd = billing.usd(quoted)
            self._report.unreadable_billings += usd is None
            if not prediction_id or usd is None:
                continue
            if prediction_id in self._recorded or prediction_id in self._others:
                self._billed[prediction_id] = self._billed.get(prediction_id, 0.0) + usd
            elif billing.created_at is None or others_from <= billing.created_at <= began:
                self._foreign[prediction_id] = self._foreign.get(prediction_id, 0.0) + usd
        for prediction_id, usd in self._foreign.items():
            if rounded(usd):
                self._report.add_without_side_car("not of this output", prediction_id, usd)


async def _billings(client: WaveSpeedClient, start: datetime) -> AsyncIterator[Billing]:
    """Yield all billing records from a moment on; one that is on two successive pages only once."""
    previous: list[Billing] = []
    number, read = 1, 0
    while number <= _PAGES:
        call = partial(client.billings, page=number, page_size=_PAGE, start_time=start)
        page = await retry(call, tries=5)
        if page.items == previous:  # it knows no pages
            return
        seen = {item.uuid for item in previous if item.uuid}
        for item in page.items:
            if item.uuid not in seen:
                yield item
        read += len(page.items)
        if page.is_last(read, _PAGE):
            return
        previous, number = page.items, number + 1
    raise UnavailableError(f"WaveSpeed's billing records have more than {_PAGES:,} pages")


def _submitter(metadata: Metadata) -> tuple[str | None, str | None]:
    """Id and name of the flow run that paid for a job; the one that stored it where no claim tells."""
    for attempt in metadata.attempts:
        if attempt.prediction_id == metadata.prediction.id and attempt.flow_run_id:
            return attempt.flow_run_id, attempt.flow_run_name
    return metadata.run.flow_run_id, metadata.run.flow_run_name


@dataclass(slots=True)
class _Run:
    """What one run submitted; smaller than a `RunSum`, as there may be as many as jobs."""

    name: str | None
    jobs: int = 0
    pictures: int = 0
    usd: float = 0.0

    def add(self, pictures: int, usd: float | None) -> None:
        self.jobs += 1
        self.pictures += pictures
        self.usd = rounded(self.usd + (usd or 0.0))

    def as_sum(self, run_id: str) -> RunSum:
        return RunSum(
            jobs=self.jobs,
            pictures=self.pictures,
            usd=self.usd,
            flow_run_name=self.name,
            flow_run_id=run_id or None,
        )
