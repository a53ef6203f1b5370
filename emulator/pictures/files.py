"""Pictures as files, and what may disappoint in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

_ENCODERS: dict[str, dict[str, int]] = {
    "jpeg": {"quality": 90},
    "png": {"compress_level": 1},
    "webp": {"quality": 85, "method": 0},
}


class Picture(NamedTuple):
    """An encoded picture; its format is jpeg, png or webp."""

    data: bytes
    format: str


def encode(picture: Image.Image, output_format: str) -> bytes:
    """Return a picture as a file."""
    out = io.BytesIO()
    picture.save(out, output_format.upper(), **_ENCODERS[output_format])
    return out.getvalue()


def in_another_format(picture: Picture) -> Picture:
    """Convert a file to PNG, or a PNG to JPEG."""
    other = "jpeg" if picture.format == "png" else "png"
    with Image.open(io.BytesIO(picture.data)) as opened:
        return Picture(encode(opened.convert("RGB"), other), other)


FLAWS = frozenset({"missing", "black", "blank", "other_size", "other_format"})
"""Faults of a prediction that completes: all of its last picture."""


def flawed(pictures: Sequence[Picture], flaw: str) -> list[Picture]:
    """Return the pictures with one of `FLAWS` in the last."""
    *others, last = pictures
    match flaw:
        case "missing":
            return others
        case "other_format":
            return [*others, in_another_format(last)]
    with Image.open(io.BytesIO(last.data)) as opened:
        if flaw == "other_size":
            changed = opened.resize((opened.width // 2, opened.height // 2))
        else:
            changed = Image.new("RGB", opened.size, "black" if flaw == "black" else "white")
    return [*others, Picture(encode(changed, last.format), last.format)]
