"""Objects that nobody needs any more: removed at once, or while there are many of them, together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from prefect_wavespeed.errors import RestyleError, redact

MOST = 1000
"""Objects that S3 removes by one request."""
_SECONDS = 5.0  # that one waits for others

_log = logging.getLogger(__name__)


class Removals:
    """Removes what may just as well stay for a while, such as the claims of finished jobs.

    Args:
        delete: removes objects of the store.
    """

    def __init__(self, delete: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self._delete = delete
        self._holders = 0
        self._paths: list[str] = []
        self._timer: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Let removals wait for others, five seconds at most; none is left at the end."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                if self._timer:
                    self._timer.cancel()
                await self._flush()

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove objects; inside ``together`` not at once.

        Raises:
            StoreError: they cannot be removed now; inside ``together`` that is only logged.
        """
        if not self._holders:
            await self._delete(paths)
            return
        self._paths += paths
        if len(self._paths) >= MOST:
            await self._flush()
        elif self._timer is None or self._timer.done():
            self._timer = asyncio.create_task(self._flush_later())

    async def _flush_later(self) -> None:
        await asyncio.sleep(_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:  # the last one waits for one that is cancelled, and finds what that left
            while paths := self._paths[:MOST]:
                try:
                    await self._delete(paths)
                except Exception as error:  # all is paid for and stored: no reason to end without a report
                    _log.warning(
                        "%s: claims of finished jobs are left: the next batch or restyle settle removes them",
                        redact(error),
                        exc_info=not isinstance(error, RestyleError),
                    )
                del self._paths[: len(paths)]
