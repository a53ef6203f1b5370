"""SIGTERM and SIGINT end a command within ten seconds, wherever it waits, with the status that says so.

Both interrupt it as Ctrl-C does. What that does not end in time, a thread ends: a read that blocks, a library
that keeps trying, Prefect's last words to a server that is gone. The ledger is made for processes that are
killed, so nothing is lost by it.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

_PATIENCE = 6.0  # seconds from the signal until the process is ended
_AT_EXIT = 2.0  # seconds for what others do at exit
_IMPATIENT = 0.5  # seconds after which a second Ctrl-C ends it at once
_JUST_NOW = 0.02  # seconds that the thread may need to notice a signal


class Stop:
    """What is known of a stop of this process.

    Attributes:
        note: what a person should know when the work is interrupted.
        in_haste: whether what others do at exit is in vain, as a server is gone.
    """

    def __init__(self) -> None:
        self.note = ""
        self.in_haste = False
        self._signum = 0
        self._deadline = 0.0
        self._came = threading.Event()
        self._said = threading.Lock()
        self._status: int | None = None

    @property
    def status(self) -> int | None:
        """The exit status after the signal that came; None where none did."""
        return 128 + self._signum if self._came.wait(_JUST_NOW) else None

    def watch(self) -> None:
        """From now on, end the process in time after a signal. To be called in the main thread."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # C writes the signal's number there, even while Python is stuck in a call of the system.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Thread(target=self._end_in_time, args=(reader,), name="stop", daemon=True).start()

    def say(self) -> None:
        """Say that the command was interrupted, once, in one line on stderr."""
        if self._said.acquire(blocking=False):
            with suppress(OSError, ValueError):  # it is closed
                print(": ".join(filter(None, ["interrupted", self.note])), file=sys.stderr, flush=True)

    def end(self, status: int) -> NoReturn:
        """End the process with a status, after what others do at exit; after a signal, not for long."""
        self._status = status
        for signum in (signal.SIGINT, signal.SIGTERM):  # the thread sees them
            signal.signal(signum, lambda *_: None)
        is_stopped = self.status is not None
        if is_stopped:
            self._deadline = min(self._deadline, time.monotonic() + _AT_EXIT)
        elif self.in_haste:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            timer = threading.Timer(_AT_EXIT, _exit_now, [status])
            timer.daemon = True
            timer.start()
        else:
            with suppress(BaseException):
                threading._shutdown()  # type: ignore[attr-defined] # as the interpreter does first
        with suppress(BaseException):
            atexit._run_exitfuncs()
        # Not as the interpreter ends: threads of obstore may then abort the process, and after some
        # interruptions it exits as if SIGINT had killed it.
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        if is_stopped or self.in_haste:
            _kill_children()
        os._exit(status)

    def _end_in_time(self, reader: int) -> None:
        self._signum = os.read(reader, 1)[0]
        since = time.monotonic()
        self._deadline = since + (_PATIENCE if self._status is None else 0)
        self._came.set()
        while (left := self._deadline - time.monotonic()) > 0:
            if select.select([reader], [], [], min(left, _AT_EXIT))[0]:
                is_ctrl_c = os.read(reader, 1)[0] == signal.SIGINT
                if is_ctrl_c and time.monotonic() - since > _IMPATIENT:
                    break
        if self._status is None:
            self.say()
        _kill_children()
        os._exit(128 + self._signum if self._status is None else self._status)


def _exit_now(status: int) -> NoReturn:
    _kill_children()
    os._exit(status)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C would do now."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _kill_children() -> None:
    """End what this process has started, such as Prefect's temporary server: nobody else would (on Linux)."""
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, listed.read_text().split()):
                os.kill(child, signal.SIGTERM)


stop = Stop()
"""The stop of this process."""
