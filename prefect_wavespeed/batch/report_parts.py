"""The account as it is written while a batch runs: a run that is killed leaves what it knew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from prefect_wavespeed.batch.report import JSONL, AccountRow, encode_part, part_path
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.storage.store import Store

_ROWS, _SECONDS = 1000, 10.0


class Parts:
    """Rows of the account, stored some at a time below ``{folder}/parts/``."""

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._waiting: list[AccountRow] = []
        self._flushed = time.monotonic()
        self._number: int | None = None
        self._lock = asyncio.Lock()

    def add(self, rows: Iterable[AccountRow]) -> None:
        """Add rows to the next part."""
        self._waiting += rows

    async def flush_if_due(self) -> None:
        """Store a part when there is enough for one, or the last one is some seconds old."""
        if len(self._waiting) >= _ROWS or time.monotonic() - self._flushed > _SECONDS:
            await self.flush()

    async def flush(self) -> None:
        """Store what there is. A store that is down does not stop the batch: the next part holds it, too."""
        rows, self._waiting = self._waiting, []
        self._flushed = time.monotonic()
        if not rows:
            return
        try:
            async with self._lock:
                number = await self._next()
                await self._store.put(part_path(self._folder, number), encode_part(rows), JSONL)
        except RestyleError:
            self._waiting += rows

    async def remove(self) -> None:
        """Remove all parts, and what shards told: the whole account has been written."""
        self._waiting = []
        there = [
            *await self._store.list(f"{self._folder}/parts/"),
            *await self._store.list(f"{self._folder}/shards/"),
        ]
        if there:
            await self._store.delete([entry.path for entry in there])

    async def _next(self) -> int:
        if self._number is None:  # an earlier try of the same run has left some
            there = await self._store.list(f"{self._folder}/parts/")
            self._number = max((int(PurePosixPath(entry.path).stem) for entry in there), default=0)
        self._number += 1
        return self._number
