"""Which predictions the ledger knows to belong to a job: these are no other job's lost submission."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

from cachetools import LRUCache

from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry

_CONCURRENCY = 64  # objects that are read at once
_REMEMBERED = 200_000


class KnownPredictions:
    """Reads records, side-cars and dead letters, each object once, and remembers whose predictions are."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._read: LRUCache[tuple[str, datetime], bool] = LRUCache(_REMEMBERED)
        self._job_of: LRUCache[str, str] = LRUCache(_REMEMBERED)  # by prediction; the key, or its beginning
        self._waiting: dict[asyncio.Future[None], datetime] = {}
        self._reader: asyncio.Task[None] | None = None

    def remember(self, prediction_id: str, job_key: str) -> None:
        """Note whose a prediction is."""
        self._job_of[prediction_id] = job_key

    def remembers(self, prediction_id: str, but_for: str) -> bool:
        """Whether it is known to be a job's, other than the one with this key."""
        job = self._job_of.get(prediction_id)
        return job is not None and not (job and but_for.startswith(job))

    async def read(self, since: datetime) -> None:
        """Read all objects of the ledger that were written from then on, by the store's clock.

        Raises:
            StoreError: the store cannot be read.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[done] = since
        # A reading in progress may be past a record: the next one serves all that wait by then.
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._serve())
        await done

    async def _serve(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # let those that come at the same time join
            waiting, self._waiting = self._waiting, {}
            try:
                await for_each(self._add, self._written(min(waiting.values())), _CONCURRENCY)
            except Exception as error:
                for done in waiting:
                    if not done.done():
                        done.set_exception(error)
            for done in waiting:
                if not done.done():
                    done.set_result(None)

    async def _written(self, since: datetime) -> AsyncIterator[Entry]:
        # In the order in which a job moves, so that none is missed on its way.
        for folder in (layout.OPEN, layout.IMAGES, layout.FAILED):
            async for page in self._ledger.store.pages(folder):
                for entry in page:
                    if entry.last_modified >= since and (entry.path, entry.last_modified) not in self._read:
                        yield entry

    async def _add(self, entry: Entry) -> None:
        key = layout.key_of_record(entry.path)
        if key is None:
            return
        for prediction_id in await self._ledger.prediction_ids(entry.path):
            self.remember(prediction_id, key)
        self._read[entry.path, entry.last_modified] = True
