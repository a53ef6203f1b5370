"""Pictures decoded small, in bounded memory, whatever is in them. It is CPU work: call it in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO

from PIL import Image, ImageOps

from prefect_wavespeed.quality.formats import (
    CONTENT_TYPES,
    MAX_SOURCE_PIXELS,
    ImageInfo,
    TooManyPixelsError,
    decoding_problem,
    image_info,
    open_image,
    tried_plain,
    webp_size,
)
from prefect_wavespeed.quality.structure import damage, keeps_whole_picture

ROOM = 256 * 2**20  # bytes, for all that a process decodes at once
_SMALL = 4 * 2**20  # bytes: nobody waits for so few, as a process has a few dozen threads at most
_COARSE = 2048  # pixels: more are not needed for a thumbnail, where averaging them would take a copy

# Bytes a pixel that decoders take at most, as measured. WebP and AVIF hold planes, frames and their copies;
# TIFF strips as big as the picture, and the picture again to turn it upright.
_BYTES = {"png": 5, "gif": 3, "bmp": 5, "tiff": 9, "webp": 18, "avif": 12}


@dataclass(frozen=True)
class Decoded:
    """What decoding a picture showed.

    Attributes:
        info: its format and size.
        small: the picture, upright and reduced; None if it takes more memory than there is room for.
        odd: what is unusual about it, though it is whole; None if nothing is.
    """

    info: ImageInfo
    small: Image.Image | None
    odd: str | None = None


def decode(data: bytes, kind: str, edge: int, max_pixels: int = MAX_SOURCE_PIXELS) -> Decoded:
    """Decode a picture, down to its last byte, and reduce it.

    Args:
        data: the picture.
        kind: its format.
        edge: the longer side of what is returned, in pixels.
        max_pixels: of a picture that is decoded; bigger ones are only looked at.

    Raises:
        Exception: whatever Pillow's decoders raise; ValueError where its structure is not whole.
    """
    if problem := damage(data, kind):
        raise ValueError(problem)
    width, height = webp_size(data) if kind == "webp" else (0, 0)  # which takes memory when it is opened
    with room(_BYTES["webp"] * width * height):
        decoded, odd = tried_plain(lambda data: _decode(data, kind, edge, max_pixels), data, kind)
    return replace(decoded, odd=odd) if odd else decoded


def _decode(data: bytes, kind: str, edge: int, max_pixels: int) -> Decoded:
    try:
        image = open_image(data, kind, min(max_pixels, ROOM // _BYTES.get(kind, 1)))
    except TooManyPixelsError as error:
        info = ImageInfo(kind, CONTENT_TYPES[kind], error.width, error.height)
        return Decoded(info, None, f"{error} to be decoded here")
    if image.info.get("compression") == "webp":  # in TIFF: its library would write to the terminal
        raise ValueError("its compression (webp) is not supported")
    info, (width, height) = image_info(image, kind), image.size
    # A JPEG decoded small has its compressed data read in full all the same, at half the cost.
    image.draft("RGB", (edge, edge))
    cost = _cost(image, data, kind, width, height)
    if cost > ROOM:
        problem = TooManyPixelsError(width, height)
        return Decoded(info, None, f"{problem} to be decoded here")
    with room(0 if kind == "webp" else cost):
        image.load()
        small = _reduced(image, edge)
    try:
        return Decoded(info, ImageOps.exif_transpose(small))
    except Exception as error:
        small.info.clear()
        return Decoded(info, small, f"its EXIF block is broken: {decoding_problem(error)}")


def _reduced(image: Image.Image, edge: int) -> Image.Image:
    """The picture with no side longer than ``edge`` pixels; its own, where possible, and no copy."""
    if max(image.size) > _COARSE and image.mode not in ("L", "RGB", "CMYK", "YCbCr"):
        image.thumbnail((_COARSE, _COARSE), Image.Resampling.NEAREST)
    if image.mode.startswith("I;16"):  # grey in 16 bits, which Pillow cannot reduce
        info, image = image.info, image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        image.info = info
    image.thumbnail((edge, edge))
    return image


def small_jpeg(image: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG, where it has a transparent ground without it, and without its metadata."""
    data = BytesIO()
    small = image.convert("RGB")
    small.info = {}  # a comment may be too long to be written
    small.save(data, "JPEG", quality=quality)
    return data.getvalue()


# --- room ---


def _cost(image: Image.Image, data: bytes, kind: str, width: int, height: int) -> int:
    """Bytes that decoding an open picture of that size takes, at most."""
    if kind != "jpeg":
        return width * height * _BYTES[kind] + 64 * height
    drafted = image.width * image.height * 4
    if not keeps_whole_picture(data):
        return drafted + width * 64  # some rows
    layers: list[int] = [across * down for _, across, down, _ in getattr(image, "layer", ())] or [1]
    return drafted + 2 * width * height * sum(layers) // max(layers)


_changed = threading.Condition()
_free = ROOM


@contextmanager
def room(size: int) -> Iterator[None]:
    """Wait, in a thread, until there is room for so many bytes, or for nothing else. Never within itself."""
    global _free
    if size <= _SMALL:
        yield
        return
    size = min(size, ROOM)
    with _changed:
        _changed.wait_for(lambda: _free >= size)
        _free -= size
    try:
        yield
    finally:
        with _changed:
            _free += size
            _changed.notify_all()
