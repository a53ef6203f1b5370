"""Which predictions the ledger knows to belong to a job: these are nobody else's lost submission."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial

from cachetools import LRUCache

from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.storage import layout

_CONCURRENCY = 64  # objects that are read at once
_REMEMBERED = 200_000


class KnownPredictions:
    """Reads the ids from records, side-cars and dead letters, each object once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ids_by_path: LRUCache[str, frozenset[str]] = LRUCache(_REMEMBERED)
        self._own: LRUCache[str, bool] = LRUCache(_REMEMBERED)
        self._reading = asyncio.Lock()

    def remember(self, prediction_id: str) -> None:
        """Note a prediction that this process has just recorded."""
        self._own[prediction_id] = True

    def remembers(self, prediction_id: str) -> bool:
        """Whether this process has recorded it, or read of it."""
        return prediction_id in self._own

    async def read(self, since: datetime) -> set[str]:
        """The ids in all objects of the ledger that were written from then on, by the store's clock.

        Raises:
            StoreError: the store cannot be read.
        """
        async with self._reading:
            known: set[str] = set()
            await for_each(partial(self._add, known), self._written(since), _CONCURRENCY)
            for prediction_id in known:
                self.remember(prediction_id)
            return known

    async def _written(self, since: datetime) -> AsyncIterator[str]:
        # In the order in which a job moves, so that none is missed on its way.
        for folder in (layout.OPEN, layout.IMAGES, layout.FAILED):
            async for page in self._ledger.store.pages(folder):
                for entry in page:
                    if entry.last_modified >= since:
                        yield entry.path

    async def _add(self, known: set[str], path: str) -> None:
        if path not in self._ids_by_path and (ids := await self._ledger.prediction_ids(path)) is not None:
            self._ids_by_path[path] = ids
        known |= self._ids_by_path.get(path, frozenset())
