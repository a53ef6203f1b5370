"""The edge to the terminal: what others wrote is shown, and cannot act on it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from prefect_wavespeed.words import printable

_OURS = "\n\t"  # between lines and columns; texts of others have their own taken out before


class _Printable:
    """A stream that writes control characters as escapes. What Rich writes has colours, and passes it by."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # Rich's name for it

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable(text, keep=_OURS))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def printable_streams() -> Iterator[None]:
    """Let ``print`` and tracebacks write nothing that acts on a terminal."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Printable(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
