"""JSON that others wrote, and base64 pictures in it, decoded while an answer is still being received."""

from __future__ import annotations

import binascii
import re
import secrets
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from pydantic_core import from_json

LONG = 64 * 1024
"""Bytes of the longest JSON string that is read as text; a longer one is taken for a picture."""
MAX_TEXT = 2 * 1024 * 1024
"""Bytes of an answer without its pictures: a page of the history has a tenth of that."""
MAX_PICTURES = 64 * 1024 * 1024
"""Bytes of all pictures in one answer: four of the largest are smaller. More is a bomb."""

_MOST_PARTS = 50_000  # lists and objects in a document; each takes far more memory than its two bytes of text

# Inside a JSON string: plain bytes and whole escapes, never half an escape.
_RUN = re.compile(rb'(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+')
_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
_DATA_URI = re.compile(rb"data:[^,]{0,200},")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LONGEST_ESCAPE = 6


class NotJsonError(ValueError):
    """A text is not JSON, or none that can be handled."""


def decode_json(text: str | bytes) -> Any:
    """Decode a JSON document.

    Args:
        text: the document; as bytes it must be UTF-8.

    Raises:
        NotJsonError: it is not JSON (NaN and Infinity are not), is nested deeper than 200, has more than
            50,000 lists and objects, holds a number of over 4,300 digits, or half a surrogate pair, which
            no text can hold.
    """
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > _MOST_PARTS:  # type: ignore[arg-type]
        raise NotJsonError("not JSON that can be read: too many lists and objects")
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise NotJsonError(f"not JSON: {error}") from None


class _Picture:
    """One base64 string while it is being received."""

    def __init__(self) -> None:
        self._bytes = BytesIO()
        self._carry = b""

    def write(self, run: bytes) -> int:
        """Decode the next part of the string and return the picture's length so far.

        Raises:
            ValueError: it is not base64.
        """
        if b"\\" in run:
            run = _ESCAPE.sub(lambda m: bytes.fromhex(m[1].decode()), run.replace(b"\\/", b"/"))
        run = self._carry + run.translate(_URL_SAFE, b" \r\n\t")
        whole = len(run) & ~3
        self._carry = run[whole:]
        self._bytes.write(binascii.a2b_base64(run[:whole], strict_mode=True))
        return self._bytes.tell()

    def close(self) -> bytes:
        """Decode the rest, padded or not, and return the picture."""
        self.write(b"=" * (-len(self._carry) % 4))
        return self._bytes.getvalue()


def decode(text: str) -> bytes | None:
    """Return the bytes of a short base64 string or data URI; None for a URL or anything else."""
    try:
        head = text.encode("ascii")
        prefix = _DATA_URI.match(head)
        picture = _Picture()
        picture.write(head[prefix.end() :] if prefix else head)
        return picture.close() or None
    except ValueError:
        return None


class Sieve:
    """Reads a JSON document chunk by chunk and keeps pictures out of it.

    A string longer than ``LONG`` is decoded as it arrives and replaced by a short mark, so that neither the
    encoded answer nor a second copy of a picture is ever in memory. A long string that is not base64 is
    truncated.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._inside = False  # a string
        self._string = bytearray()
        self._picture: _Picture | None = None
        self._cut = False
        self._half = b""  # an escape whose rest is in the next chunk
        self._nonce = secrets.token_hex(8)
        self._pictures: dict[str, bytes] = {}
        self._decoded = 0

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the document.

        Raises:
            ValueError: it cannot be JSON, a picture in it is not base64, or it is too long.
        """
        data = self._half + chunk if self._half else chunk
        self._half = b""
        at = 0
        while at < len(data):
            if not self._inside:
                quote = data.find(b'"', at)
                self._text += data[at:] if quote < 0 else data[at : quote + 1]
                at = len(data) if quote < 0 else quote + 1
                self._inside = quote >= 0
            elif run := _RUN.match(data, at):
                self._take(run[0])
                at = run.end()
                if data[at : at + 1] == b'"':
                    self._end_string()
                    at += 1
                elif at < len(data):
                    self._half = data[at:]
                    if len(self._half) >= _LONGEST_ESCAPE:
                        raise ValueError("the answer is not JSON: a broken escape")
                    break
        if len(self._text) > MAX_TEXT:
            raise ValueError("the answer is too long")

    def close(self) -> tuple[Any, Mapping[str, bytes]]:
        """Return the document, and its pictures by the marks that stand for them.

        Raises:
            ValueError: it is not JSON.
        """
        if self._inside:
            raise ValueError("the answer is not JSON: it ends within a string")
        return decode_json(self._text.decode("utf-8-sig", "replace")), self._pictures

    def _take(self, run: bytes) -> None:
        if self._picture is not None:
            if self._decoded + self._picture.write(run) > MAX_PICTURES:
                raise ValueError("the pictures in the answer are too large")
        elif not self._cut:
            self._string += run
            if len(self._string) > LONG:
                self._start_picture(bytes(self._string))

    def _start_picture(self, head: bytes) -> None:
        prefix = _DATA_URI.match(head)
        picture = _Picture()
        try:
            picture.write(head[prefix.end() :] if prefix else head)
        except ValueError:
            self._cut = True
        else:
            self._picture = picture
            self._string = bytearray()

    def _end_string(self) -> None:
        if self._picture is not None:
            mark = f"picture-{self._nonce}-{len(self._pictures)}"
            picture = self._picture.close()
            self._pictures[mark] = picture
            self._decoded += len(picture)
            self._string = bytearray(mark.encode())
        self._text += self._string + b'"'
        self._inside, self._string, self._picture, self._cut = False, bytearray(), None, False
