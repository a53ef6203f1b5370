"""The receiver's log on stderr: bounded, however much is sent to it."""

from __future__ import annotations

import logging
import sys
import time

from prefect_wavespeed.words import printable

_LINES = 30  # of each kind in a period
_PERIOD_SECONDS = 60.0


class _Bounded(logging.Filter):
    """Lets a few lines of each kind through in each minute; a kind is what one place in the code logs."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[tuple[str, int], int] = {}
        self._since = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() - self._since > _PERIOD_SECONDS:
            self._counts, self._since = {}, time.monotonic()
        kind = (record.pathname, record.lineno)
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count == _LINES:
            record.msg, record.args = f"{record.getMessage()} (more of these are left out for a minute)", ()
        return count <= _LINES


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")  # tracebacks have lines


def log_to_stderr() -> None:
    """Log what the receiver, its server and its event loop have to say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_Bounded())
    for name, level in (
        ("prefect_wavespeed.deployments.receiver", logging.INFO),
        ("asyncio", logging.WARNING),
        ("uvicorn", logging.WARNING),
    ):
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False
