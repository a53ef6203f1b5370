"""Prefect as a command line wants it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from inspect import isawaitable

_FLUSH_SECONDS = 10.0


def quieten() -> None:
    """Keep Prefect's log off the terminal: runs keep theirs at the server. To call before it is imported."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # its temporary server takes longer than Prefect waits by default (20 s) to make a first database
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # events that are left at the end are sent then; without a flow, Python itself prints that they are
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
    if sys.stderr.isatty():  # somebody waits, and a temporary server takes ten seconds
        log = logging.getLogger("prefect")
        log.setLevel(logging.INFO)
        log.addFilter(_tell_of_server)  # a handler would be gone when Prefect has set its log up


def _tell_of_server(record: logging.LogRecord) -> bool:
    if record.getMessage().startswith("Starting temporary server"):
        print("no PREFECT_API_URL: starting a temporary Prefect server", file=sys.stderr, flush=True)
    return True


def interrupted(error: BaseException) -> int | None:
    """The exit status after Ctrl-C (130) or SIGTERM (143), which Prefect turns into an exception of its own.

    None when the error is another one.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 143 if type(error).__name__ == "TerminationSignal" else None


@contextmanager
def quiet_run(if_interrupted: str = "") -> Iterator[None]:
    """Around what a command does with Prefect: nothing but the command's own answer reaches stdout.

    Args:
        if_interrupted: what to tell whoever interrupts it.
    """
    quieten()
    with redirect_stdout(sys.stderr):  # what a library prints is no part of the answer
        try:
            yield
        except BaseException as stopped:
            if if_interrupted and interrupted(stopped) is not None:
                stopped.add_note(if_interrupted)
            raise


async def flush() -> None:
    """Send what Prefect still has to send, logs and events, while its server is there.

    At the interpreter's exit Prefect does so itself, and where the server is gone by then it tries for
    a minute.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    async with asyncio.timeout(_FLUSH_SECONDS):
        if isawaitable(draining := EventsWorker.drain_all(timeout=_FLUSH_SECONDS)):
            await draining
        await APILogHandler.aflush()
