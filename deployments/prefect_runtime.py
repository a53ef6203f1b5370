"""Prefect inside a command: its log off the terminal, nothing of it on stdout, its last events sent."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from prefect_wavespeed.deployments.stopping import stop

OFF_FOR_IMPORTS = 400_000
"""So many more objects than were deleted start a look for garbage: modules are made of fewer."""

_FLUSH_SECONDS = 10.0


def quieten() -> None:
    """Keep Prefect's log, which the server keeps, off the terminal. To be called before importing Prefect."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # a temporary server takes longer than Prefect's default (20 s) to create its first database
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # what it cannot send is no news to a person: the command says itself that the server is away
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    logging.raiseExceptions = False
    # for half a minute instead of one, while a person waits
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "4")
    # warns of events that are pending at exit, though they are sent then
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
    if sys.stderr.isatty():  # a temporary server takes ten seconds to start, and a person is waiting
        log = logging.getLogger("prefect")
        log.setLevel(logging.INFO)
        log.addFilter(_announce_temporary_server)  # a handler would not survive Prefect's logging set-up


def _announce_temporary_server(record: logging.LogRecord) -> bool:
    # Prefect has no hook for this: the wording of its log message is the only sign.
    if record.getMessage().startswith("Starting temporary server"):
        print("no PREFECT_API_URL: starting a temporary Prefect server", file=sys.stderr, flush=True)
    return True


def interrupt_status(error: BaseException) -> int | None:
    """Return the exit status after Ctrl-C (130) or SIGTERM (143); None for any other exception."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    # Prefect turns SIGTERM into an exception of its own, which is not to be imported for this
    return 143 if type(error).__name__ == "TerminationSignal" else None


@contextmanager
def quiet_run(if_interrupted: str = "") -> Iterator[None]:
    """Run Prefect code quietly: whatever it prints goes to stderr, so that stdout holds the result alone.

    Args:
        if_interrupted: what is said to a person who interrupts the command.
    """
    quieten()
    stop.note = if_interrupted
    with redirect_stdout(sys.stderr):
        yield


def all_imported() -> None:
    """Look for garbage from now on, but not among what modules are made of, which takes longest.

    To be called once a command that takes long, or has much to do, has imported what it needs. It changes
    nothing in a process that is not a command's.
    """
    if gc.get_threshold()[0] == OFF_FOR_IMPORTS:
        gc.freeze()
        gc.set_threshold(50_000)


async def flush() -> None:
    """Send Prefect's pending logs and events while its server is still up.

    Prefect does so at interpreter exit, but keeps trying for a minute when the server is gone by then.
    """
    import asyncio
    from inspect import isawaitable

    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    async with asyncio.timeout(_FLUSH_SECONDS):
        if isawaitable(draining := EventsWorker.drain_all(timeout=_FLUSH_SECONDS)):
            await draining
        await APILogHandler.aflush()
