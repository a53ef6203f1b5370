"""The standard streams: their reader may go away (`restyle list | head`), or there may be none (`>&-`)."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)


def secure_streams() -> None:
    """Make what is printed to nobody be no error: what a run does, and its status, do not depend on it.

    A stream that is closed becomes /dev/null: otherwise the next file or connection would get its number, and
    what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:  # not a test's
        sys.stdout = _secured(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _secured(sys.stderr, 2)


def flush_streams() -> None:
    """Print what is still held.

    Raises:
        OSError: something could not be written, though somebody may read it: the disk is full, for example.
    """
    for stream in (sys.stderr, sys.stdout):
        stream.flush()
        if (raw := _raw(stream)) and raw.failure:
            raise raw.failure


def is_read(stream: TextIO) -> bool:
    """Whether somebody may still read what is printed."""
    raw = _raw(stream)
    return raw is None or not raw.is_gone


def _raw(stream: TextIO) -> _Stream | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Stream) else None


def _secured(stream: TextIO | None, number: int) -> TextIO:
    raw = _Stream(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
    )


class _Stream(io.FileIO):
    """A stream that throws away what cannot be written any more.

    Attributes:
        is_gone: it does.
        failure: why, unless its reader is gone.
    """

    is_gone = False
    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if not self.is_gone:
            try:
                return super().write(data)
            except OSError as error:
                self.is_gone = True
                self.failure = None if error.errno in _GONE else error
        return len(data)
