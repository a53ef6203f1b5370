"""Where a batch stands, for whoever looks on: Prefect's UI, and the terminal that started it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact

from prefect_wavespeed.batch.run import Progress
from prefect_wavespeed.errors import redact

_SECONDS = 3.0

watcher: ContextVar[Callable[[Progress], None]] = ContextVar("watcher", default=lambda _: None)
"""Told of a batch's progress in this process."""


class ProgressArtifact:
    """A progress bar in Prefect's UI. What goes wrong with it is logged, and no more."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._shown = -1
        self._artifact: UUID | None = None

    def changed(self, progress: Progress) -> None:
        """Where the batch stands now."""
        self._progress = progress

    async def show(self) -> None:
        """Bring the bar to where the batch stands."""
        progress = self._progress
        if progress.known == self._shown:
            return
        self._shown = progress.known
        percent = 100 * progress.known / max(1, progress.rows)
        try:
            if self._artifact:
                await aupdate_progress_artifact(artifact_id=self._artifact, progress=percent)
                return
            created: Any = await acreate_progress_artifact(
                progress=percent, key="restyle-progress", description="Rows that are accounted for"
            )
            self._artifact = created
        except Exception as error:
            get_run_logger().warning("the progress could not be shown: %s", redact(error))


@asynccontextmanager
async def moving(artifact: ProgressArtifact) -> AsyncIterator[None]:
    """Move the bar every few seconds, and once more at the end."""

    async def move() -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            await artifact.show()

    task = asyncio.create_task(move())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await artifact.show()
