"""What a store holds of a batch's jobs before any of them is carried out.

Few jobs are looked at, each by itself. Many are looked up in listings, a thousand objects an answer, and only
those are looked at that are open or failed; where a listing does not say enough of one that is done, its
side-car is read. A listing decides nothing about a bill: what it shows as new is claimed first, and looked at
after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar

from prefect_wavespeed import metrics
from prefect_wavespeed.batch.job_table import JobTable, NamedJob
from prefect_wavespeed.batch.ledger_view import JobState, LedgerView
from prefect_wavespeed.batch.outcome import JobOutcome
from prefect_wavespeed.batch.patience import patiently
from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.job import Job
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store

_T = TypeVar("_T")

FEW = 50
"""Jobs that are looked at by themselves: their rows then say all that their side-cars do."""
_AT_ONCE = 10_000  # jobs that are looked up in one listing, or gone through in one step
_LISTINGS = 8  # at a time
_PAGE = 500  # jobs that are looked at


class Survey:
    """Finds out which jobs are done, new, or have to be looked at.

    Args:
        table: the jobs. Those that are found done get their outcomes, those that are new are marked as such.
        ledger: looks at one job.
        store: where the jobs are.
        since: when the first try of this run began, if this is a later one. What has been stored since then
            may be this run's own, so it is looked at.
        new: keys of the new jobs, where the whole run has surveyed them for its shards.
    """

    def __init__(
        self,
        table: JobTable,
        ledger: LedgerView,
        store: Store,
        since: datetime | None = None,
        new: Iterable[str] | None = None,
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._store = store
        self._since = since
        self._new = new if since is None else None  # a later try has its own to find

    async def states(self) -> AsyncIterator[tuple[Job, JobState]]:
        """Survey all jobs without an outcome, and yield the states of those that were looked at.

        Raises:
            StoreError: the store cannot be read now.
        """
        if self._new is not None:
            for key in self._new:
                self._table.mark_new(key)
        elif self._table.job_count > FEW:
            await self._list()
        for done in (True, False):
            async for page in self._unsurveyed(done):
                for job, state in zip(page, await self._ledger.states(page, done=done), strict=True):
                    if state.is_new:
                        self._table.mark_new(job.key)
                    yield job, state

    async def _list(self) -> None:
        """Look all jobs up; what is open first: a job that ends meanwhile is seen as open, or as done."""
        await for_each(self._mark_known, _parts(await _in_thread(self._table.jobs_by_key)), _LISTINGS)
        await for_each(self._record_done, _parts(await _in_thread(self._table.jobs_by_name)), _LISTINGS)
        async for first, last in self._ranges():
            self._table.mark_rest_new(first, last)

    async def _unsurveyed(self, done: bool) -> AsyncIterator[list[Job]]:
        page = []
        async for first, last in self._ranges():
            for job in self._table.unsurveyed(first, last, done=done):
                page.append(job)
                if len(page) == _PAGE:
                    yield page
                    page = []
        if page:
            yield page

    async def _ranges(self) -> AsyncIterator[tuple[int, int]]:
        """Numbers of jobs, first and last: a million in one step would hold up all other work."""
        for first in range(1, self._table.job_count + 1, _AT_ONCE):
            yield first, first + _AT_ONCE - 1
            await asyncio.sleep(0)

    async def _mark_known(self, jobs: Sequence[tuple[int, str]]) -> None:
        for folder, path_of in ((layout.OPEN, layout.open_job), (layout.FAILED, layout.dead_letter)):
            numbers = {path_of(key): number for number, key in jobs}
            found = await patiently(self._store.find)(folder, list(numbers))
            self._table.mark_known(numbers[path] for path in found)

    async def _record_done(self, jobs: Sequence[NamedJob]) -> None:
        by_folder = {layout.images(job.name): job for job in jobs}
        found = await patiently(self._store.find)(layout.IMAGES, list(by_folder))
        done, unsaid = [], []
        for folder, entries in found.items():
            job = by_folder[folder]
            side_car = next((each for each in entries if each.path == layout.metadata(job.name)), None)
            if side_car is None or job.is_known:
                continue
            pictures = _pictures(entries, job.num_images)
            if pictures and not self._may_be_own(side_car):
                done.append((job.number, self._outcome(side_car, pictures)))
            else:
                unsaid.append(job.number)
        self._table.record_done(done)
        self._table.mark_done(unsaid)
        metrics.FOUND.inc(len(done))

    def _may_be_own(self, side_car: Entry) -> bool:
        return self._since is not None and side_car.last_modified >= self._since

    def _outcome(self, side_car: Entry, pictures: Sequence[str]) -> JobOutcome:
        """The outcome of a job that was done before; what only its side-car knows is left empty."""
        return JobOutcome(
            "done",
            outputs=list(map(self._store.uri_of, pictures)),
            metadata_uri=self._store.uri_of(side_car.path),
            cost_usd=0.0,
        )


async def _in_thread(sort: Callable[[], _T]) -> _T:
    """Let a query sort a million jobs, for a second or two, while no listing is under way that marks any.

    It is waited for if this is cancelled, too: next the table is closed.
    """
    sorting = asyncio.create_task(asyncio.to_thread(sort))
    try:
        return await asyncio.shield(sorting)
    finally:
        await asyncio.wait([sorting])


def _parts(jobs: Iterator[_T]) -> Iterator[list[_T]]:
    while part := list(islice(jobs, _AT_ONCE)):
        yield part


def _pictures(entries: Sequence[Entry], count: int) -> list[str] | None:
    """The paths of a job's pictures, if there are as many as it asked for, and a side-car, and nothing else.

    Otherwise some were dropped or are in quarantine, or there are warnings or flags (``layout.remarks``).
    """
    by_number = sorted((layout.number_of_picture(entry.path) or 0, entry.path) for entry in entries)
    if [number for number, _ in by_number] != list(range(count + 1)):  # 0: the side-car
        return None
    return [path for _, path in by_number[1:]]
