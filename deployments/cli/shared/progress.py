"""Signs of life on stderr while a command lists an output."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

_LINE_SECONDS = 10.0  # between lines where stderr is not a terminal


class ListingProgress:
    """How many objects have been listed: a changing line on a terminal, otherwise a line now and then."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._status: Status | None = console.status("listing") if console.is_terminal else None
        self._objects = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> ListingProgress:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the line, before something else is printed."""
        if self._status:
            self._status.stop()

    def on_page(self, count: int) -> None:
        """Count another page of the listing."""
        self._objects += count
        if self._status:
            self._status.update(f"listing: {self._objects:,} objects so far")
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            print(f"listing: {self._objects:,} objects so far", file=sys.stderr, flush=True)
