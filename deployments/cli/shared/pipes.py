"""Printing much into a pipe that its reader may close: `restyle list | head` is no error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def until_closed(stdout: TextIO) -> Iterator[None]:
    """Print inside until the reader closes the pipe."""
    try:
        yield
        stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # for what Python flushes at exit
