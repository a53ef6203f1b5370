"""Signs of life on stderr while a command takes its time."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

from rich import progress as bars
from rich.console import Console as RichConsole
from rich.status import Status

from prefect_wavespeed.deployments.cli.shared.console import Console

if TYPE_CHECKING:
    from prefect_wavespeed.batch.progress import Progress

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


class BatchProgress:
    """How far a batch is: a bar on a terminal, otherwise a line now and then.

    Args:
        console: where the bar is shown.
    """

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._bar = bars.Progress(
            bars.TextColumn("{task.fields[doing]}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TextColumn("{task.fields[spent]}"),
            bars.TextColumn("{task.fields[left]}"),
            bars.TextColumn("[red]{task.fields[failed]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=None, doing="starting", rate="", spent="", left="", failed=""
        )
        self._last_line = time.monotonic()

    def __enter__(self) -> BatchProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        with suppress(OSError, ValueError):  # the terminal is gone
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        """Show how far the batch is."""
        failed = progress.counts["failed"] + progress.counts["open"]
        rate = f"{60 * progress.rows_per_second:,.0f}/min" if progress.rows_per_second else ""
        spent = f"{progress.spent_usd:,.2f} USD"
        failures = f"{failed:,} failed" if failed else ""
        left = progress.seconds_left
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                completed=progress.finished,
                total=progress.rows or None,
                doing=progress.doing,
                rate=rate,
                spent=spent,
                left="-:--:--" if left is None else str(timedelta(seconds=round(left))),
                failed=failures,
            )
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            rows = f"{progress.finished:,} of {progress.rows:,} rows"
            parts = [rows, rate, spent, failures] if progress.is_counting else [progress.doing]
            print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)
