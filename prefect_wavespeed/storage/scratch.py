"""The temporary folder, and what to say when its disk is full."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect_wavespeed.errors import ScratchError, redact

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, which is removed at the end.

    Raises:
        ScratchError: it cannot be made, or what is written inside does not fit.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="restyle-")
    except OSError as error:
        raise scratch_error(error) from None
    try:
        with made as name:
            yield Path(name)
    except OSError as error:
        if not is_full(error):
            raise
        raise scratch_error(error) from None


def is_full(error: Exception) -> bool:
    """Whether there is no space left on a disk of this machine."""
    return isinstance(error, OSError) and error.errno in _FULL


def scratch_error(error: Exception, folder: str | None = None) -> ScratchError:
    """The error for a temporary file that cannot be written.

    Args:
        error: why.
        folder: where it is, if not where Python has such files.
    """
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else redact(error)
    folder = folder or os.environ.get("TMPDIR") or tempfile.tempdir or "/tmp"  # noqa: S108
    return ScratchError(
        f"{reason}: temporary folder {folder}: free some space there, or name another one by TMPDIR; then "
        "run the same command again: nothing is billed twice"
    )


def sqlite_error(error: Exception) -> ScratchError:
    """``scratch_error`` for SQLite, which has a folder of its own."""
    return scratch_error(
        error,
        os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp",  # noqa: S108
    )
