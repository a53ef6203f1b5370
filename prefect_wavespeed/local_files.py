"""Files of this machine that people name: only regular ones, up to a size, and never waited for without end.

A read of a network's directory may block for ever, and no signal ends it. So it is made in a thread that is
left behind; asyncio's own threads are waited for when the process ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO, TypeVar

LONGEST_READ = 60.0
"""Seconds that a file may take to be read."""

_T = TypeVar("_T")


class NotRegularError(OSError):
    """It is a pipe, a device, a socket or the like, which might never end."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "not a regular file")


class TooLongError(OSError):
    """It has more bytes than it may have.

    Attributes:
        size: as many, or more if it grows.
    """

    def __init__(self, size: int) -> None:
        super().__init__(errno.EFBIG, "too big")
        self.size = size


def expanded(path: str | Path) -> Path:
    """A path whose ``~`` is the home directory.

    Raises:
        OSError: it is that of a user who does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise OSError(errno.EINVAL, "no such user: what is after ~ is a user's name") from None


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to read it.

    Args:
        path: the file; ``~`` is the home directory.

    Raises:
        NotRegularError: it is neither a file nor a directory.
        OSError: it is missing, a directory, or cannot be opened.
    """
    path = expanded(path)
    try:
        _check(path.stat().st_mode)  # first: to open a device may do something
    except ValueError:
        raise OSError(errno.EINVAL, "a character that no path has") from None
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check(os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _check(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise NotRegularError


def read_regular(path: str | Path, limit: int) -> bytes:
    """The bytes of a file. No more than ``limit`` are read, also of one that grows or has no true size.

    Raises:
        TooLongError: it has more.
        OSError: as ``open_regular``.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
    if (found := max(size, len(data))) > limit:
        raise TooLongError(found)
    return data


async def in_time(call: Callable[[], _T], seconds: float = LONGEST_READ) -> _T:
    """The result of a call that may block. It can be cancelled at any time.

    Raises:
        TimeoutError: it takes longer; the thread that makes it is left behind.
    """
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(_begun(call))
    except TimeoutError as error:
        raise _timed_out(error, seconds) from None


def in_time_sync(call: Callable[[], _T], seconds: float = LONGEST_READ) -> _T:
    """``in_time`` for code that is not asynchronous."""
    try:
        return _begun(call).result(seconds)
    except TimeoutError as error:
        raise _timed_out(error, seconds) from None


def _timed_out(error: TimeoutError, seconds: float) -> TimeoutError:
    if error.errno:  # the file system's own
        return error
    return TimeoutError(errno.ETIMEDOUT, f"no answer from the file system for {seconds:g} s")


def _begun(call: Callable[[], _T]) -> Future[_T]:
    future: Future[_T] = Future()

    def make() -> None:
        with suppress(InvalidStateError):  # nobody waits any more
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    Thread(target=make, name="read", daemon=True).start()
    return future
