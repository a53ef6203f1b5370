"""How a JPEG or a PNG is put together: whether it is whole, and what it is without its metadata.

Nothing is decoded here: it takes a millisecond, whatever the number of pixels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

CHECKED = ("jpeg", "png", "webp")
"""Formats of which ``damage`` sees whether they are whole."""

_CUT_SHORT = "it is cut short"
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_STANDALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # JPEG markers without a length
_SCAN, _FRAMES = 0xDA, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END_OF_JPEG = b"\xff\xd9"
# What a JPEG's decoder has no use for: EXIF, ICC profiles and the like (not JFIF's and Adobe's), comments.
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_PNG_COLOURS = frozenset({b"tRNS"})  # the one ancillary chunk that changes what is seen


class Part(NamedTuple):
    """A JPEG's segment or a PNG's chunk: what it is, and where it begins, has its content and ends."""

    kind: int | bytes
    start: int
    content: int
    end: int


def damage(data: bytes, kind: str) -> str | None:
    """What is missing or broken in a picture, as far as its structure says; None if that is whole.

    Args:
        data: the picture.
        kind: its format.
    """
    match kind:
        case "jpeg":
            *_, last = [Part(0, 0, 0, 2), *_segments(data)]
            # its EXIF block may hold another JPEG, with an end of its own
            return None if data.find(_END_OF_JPEG, last.end) >= 0 else _CUT_SHORT
        case "png":
            return _damage_of_png(data)
        case "webp":
            return _CUT_SHORT if len(data) < 8 + int.from_bytes(data[4:8], "little") else None
    return None


def _damage_of_png(data: bytes) -> str | None:
    for part in _chunks(data):
        if part.end > len(data):
            return _CUT_SHORT
        checksum = int.from_bytes(data[part.end - 4 : part.end], "big")
        is_critical = bytes(part.kind)[:1].isupper()
        if is_critical and zlib.crc32(memoryview(data)[part.start + 4 : part.end - 4]) != checksum:
            return "a checksum in it is wrong"
        if part.kind == b"IEND":
            return None
    return _CUT_SHORT


def without_metadata(data: bytes, kind: str) -> bytes | None:
    """The picture alone; None where nothing is left out."""
    if kind == "jpeg":
        head, dropped = data[:2], [part for part in _segments(data) if part.kind in _JPEG_METADATA]
    elif kind == "png":
        head = data[: len(_PNG_HEAD)]
        dropped = [
            part
            for part in _chunks(data)
            if not bytes(part.kind)[:1].isupper() and part.kind not in _PNG_COLOURS
        ]
    else:
        return None
    if not dropped:
        return None
    starts = [len(head), *(part.end for part in dropped)]
    ends = [*(part.start for part in dropped), len(data)]
    return head + b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def keeps_whole_picture(data: bytes) -> bool:
    """Whether a JPEG's decoder has to hold the whole picture: its data come in more than one scan."""
    components = 0
    for part in _segments(data):
        if part.kind in _FRAMES:
            components = data[part.content + 5]
            if part.kind in (0xC2, 0xC6, 0xCA, 0xCE):  # progressive
                return True
        elif part.kind == _SCAN:
            return data[part.content] < components
    return True  # it is broken: nobody knows


def _segments(data: bytes) -> Iterator[Part]:
    """The segments of a JPEG down to the head of its first scan, as far as they are whole."""
    at = 2
    while found := _MARKER.match(data, at):
        marker, start, content = found[1][0], at, found.end()
        if marker in _STANDALONE:
            at = content
            continue
        at = content + int.from_bytes(data[content : content + 2], "big")
        if at < content + 2 or at > len(data):
            return
        yield Part(marker, start, content + 2, at)
        if marker in (_SCAN, 0xD9):
            return


_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)


def _chunks(data: bytes) -> Iterator[Part]:
    """The chunks of a PNG down to its end; the last may end behind the data."""
    at = len(_PNG_HEAD)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        part = Part(data[at + 4 : at + 8], at, at + 8, end)
        yield part
        if end > len(data) or part.kind == b"IEND":
            return
        at = end
