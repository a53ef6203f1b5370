"""The report as it is written while a batch runs, so that a run that is killed leaves what it knew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from prefect_wavespeed.batch.report.rows import ReportRow, encode_part
from prefect_wavespeed.batch.report.write import JSONL
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

_ROWS, _SECONDS = 1000, 10.0


class ReportParts:
    """Rows of the report, stored a part at a time in the run's folder.

    Args:
        store: where they go.
        folder: the run's folder in it, or a shard's.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._pending: list[ReportRow] = []
        self._flushed = time.monotonic()
        self._number: int | None = None
        self._lock = asyncio.Lock()

    def add(self, rows: Iterable[ReportRow]) -> None:
        """Add rows to the next part."""
        self._pending += rows

    async def flush_if_due(self) -> None:
        """Store a part if there are enough rows for one, or the last one is some seconds old."""
        if len(self._pending) >= _ROWS or time.monotonic() - self._flushed > _SECONDS:
            await self.flush()

    async def flush(self) -> None:
        """Store what is pending. A store that is down does not stop the batch: the next part has it, too."""
        rows, self._pending = self._pending, []
        self._flushed = time.monotonic()
        if not rows:
            return
        try:
            async with self._lock:
                path = layout.report_part(self._folder, await self._next())
                await self._store.put(path, encode_part(rows), JSONL)
        except RestyleError:
            self._pending += rows

    async def remove(self) -> None:
        """Remove all parts, those of shards included: the complete report has been written."""
        self._pending = []
        parts = [
            *await self._store.list(layout.report_parts(self._folder)),
            *await self._store.list(layout.shards(self._folder)),
        ]
        if parts:
            await self._store.delete([entry.path for entry in parts])

    async def _next(self) -> int:
        if self._number is None:  # an earlier try of the same run may have left some
            parts = await self._store.list(layout.report_parts(self._folder))
            self._number = max((int(PurePosixPath(entry.path).stem) for entry in parts), default=0)
        self._number += 1
        return self._number
