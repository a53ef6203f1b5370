"""How far a batch is, shown in Prefect's UI and to the process that started it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.context import FlowRunContext

from prefect_wavespeed.batch.progress import OnProgress, Progress
from prefect_wavespeed.errors import redact
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.words import counted

_SECONDS = 3.0

announce: ContextVar[Callable[[str], None]] = ContextVar("announce", default=lambda _: None)
"""Called with a line that a person should see at once."""

observer: ContextVar[OnProgress] = ContextVar("observer", default=lambda _: None)
"""Called with the progress of any batch that this context runs."""


class ProgressArtifact:
    """A progress bar in Prefect's UI. Errors are logged and otherwise ignored."""

    def __init__(self) -> None:
        self._progress = Progress()
        self._shown = (-1, "")  # rows, and what was being done
        self._artifact: UUID | None = None
        # the run's own: each new one reads all certificates
        self._client: Any = context.client if (context := FlowRunContext.get()) else None

    def update(self, progress: Progress) -> None:
        """Note how far the batch is, to be shown next time."""
        self._progress = progress

    async def show(self) -> None:
        """Bring the bar up to date."""
        progress = self._progress
        if (progress.finished, progress.doing) == self._shown:
            return
        self._shown = (progress.finished, progress.doing)
        rows = f"{progress.finished:,} of {counted(progress.rows, 'row')} done"
        description = rows if progress.is_counting else progress.doing
        percent = 100 * progress.finished / max(1, progress.rows)
        try:
            if self._artifact:
                await aupdate_progress_artifact(
                    artifact_id=self._artifact,
                    progress=percent,
                    description=description,
                    client=self._client,
                )
                return
            created: Any = await acreate_progress_artifact(
                progress=percent, key="restyle-progress", description=description
            )
            self._artifact = created
        except Exception as error:
            run_log().warning("the progress could not be shown: %s", redact(error))


@asynccontextmanager
async def updating(artifact: ProgressArtifact) -> AsyncIterator[None]:
    """Update the bar every few seconds, and once more at the end."""

    async def update() -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            await artifact.show()

    task = asyncio.create_task(update())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await artifact.show()
