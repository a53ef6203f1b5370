"""The lines of a text file as people have them: gzipped or not, UTF-8 or UTF-16, any line ends."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from prefect_wavespeed.local_files import open_regular
from prefect_wavespeed.quality.other_formats import is_web_page

LINE_LIMIT = 1 << 20  # characters
_MOST_EMPTY = 1 << 20  # lines in a row, as many as a sheet has: some bytes may unpack to any number
_SEPARATORS = " \t\r\n,;|"
BROKEN = "\udcff"
"""Stands for bytes that are no text: a text has no such character."""
TOO_LONG = "\udc81"
"""Stands for a whole line that is longer than LINE_LIMIT."""

_MARKS = (  # UTF-32 first: its mark begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = {
    b"PK\x03\x04": "it is a spreadsheet or an archive: save it as CSV",
    b"\xd0\xcf\x11\xe0": "it is a spreadsheet: save it as CSV",
    b"PAR1": "it is Parquet: give it a name that ends in .parquet",
}


class UnreadableError(Exception):
    """What is wrong with a manifest as a whole, and what to do."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a text, each with its line end: ``\\n``, ``\\r\\n`` or ``\\r``.

    What cannot be decoded is ``BROKEN`` in its line, and a line that is too long is ``TOO_LONG``, so that one
    bad line is one bad row.

    Raises:
        UnreadableError: it cannot be read to its end.
    """
    read, empty = pieces(path), 0
    for line in read:
        empty = 0 if line.strip(_SEPARATORS) else empty + 1
        if empty > _MOST_EMPTY:
            raise UnreadableError(f"over {_MOST_EMPTY:,} lines in a row are empty: leave them out")
        if len(line) < LINE_LIMIT:
            yield line
            continue
        while len(next(read, "")) == LINE_LIMIT:
            pass
        yield f"{TOO_LONG}\n"


def pieces(path: Path) -> Iterator[str]:
    """A text in pieces: its lines, of which one that is longer than LINE_LIMIT is cut into several.

    Raises:
        UnreadableError: it cannot be read to its end.
    """
    try:
        with (
            _open(path) as file,
            io.TextIOWrapper(file, _encoding(path), "restyle-broken", newline="") as text,
        ):
            while piece := text.readline(LINE_LIMIT):
                yield piece
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _open(path: Path) -> BinaryIO:
    file = open_regular(path)
    gzipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    whole = io.BufferedReader(_AsItWas(file), 1 << 16)
    return cast("BinaryIO", gzip.GzipFile(fileobj=whole)) if gzipped else whole


class _AsItWas(io.RawIOBase):
    """A file up to the size that it has when it is opened: one that grows might never end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left) or 1)
        if data and not self._left:
            raise OSError(errno.EBUSY, "it grows while it is read: wait until it is complete")
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _encoding(path: Path) -> str:
    """The encoding that a text's first bytes tell; UTF-8 unless they do."""
    with _open(path) as file:
        start = file.read(64)
    if what := next((what for magic, what in _BINARY.items() if start.startswith(magic)), None):
        raise UnreadableError(what)
    if is_web_page(start):
        raise UnreadableError("it is a web page, such as one to sign in on: check its address")
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if marked:
        return marked
    first, second = start[::2].count(0), start[1::2].count(0)
    if 4 * max(first, second) < len(start) or not start:  # what a manifest begins with is ASCII, mostly
        return "utf-8"
    return "utf-16-le" if second > first else "utf-16-be"


def _broken(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return BROKEN, error.end


codecs.register_error("restyle-broken", _broken)
