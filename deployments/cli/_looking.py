"""Looking into an output: opened without waiting for Prefect where that is possible, with a sign of life."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from prefect_wavespeed.deployments.cli.settle import known_store
from prefect_wavespeed.storage.store import Store

_LINE_SECONDS = 10.0  # between lines where there is no terminal


async def open_known(out: str) -> Store:
    """The store of an output that has been written to.

    Raises:
        ConfigurationError: there is no such directory or block, or it is no name of an output.
    """
    if store := await known_store(out):
        return store
    from prefect_wavespeed.blocks.output import open_output

    return await open_output(out)


class Looking:
    """How far a listing has come, on stderr: a changing line on a terminal, elsewhere one now and then."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._status: Status | None = console.status("looking") if console.is_terminal else None
        self._objects = 0
        self._line = time.monotonic()

    def __enter__(self) -> Looking:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line away: something else is to be shown."""
        if self._status:
            self._status.stop()

    def on_page(self, count: int) -> None:
        """So many more objects were looked at."""
        self._objects += count
        if self._status:
            self._status.update(f"looking: {self._objects:,} objects so far")
        elif time.monotonic() - self._line > _LINE_SECONDS:
            self._line = time.monotonic()
            print(f"looking: {self._objects:,} objects so far", file=sys.stderr, flush=True)
