"""Pictures that need far more memory than their files, lie about themselves, or are broken; all made here."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image

_MEGABYTE = 1 << 20


def made(kind: str, width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A whole picture, a gradient."""
    data = BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert(mode).save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG's chunk."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def segment(marker: int, data: bytes) -> bytes:
    """A JPEG's segment."""
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


def black_png(width: int, height: int, *, is_whole: bool = True) -> bytes:
    """A PNG of a few hundred KB, whatever its size; or one that only says that it is so big."""
    row, packer = bytes(1 + 3 * width), zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(height if is_whole else 0)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _with_text_bombs() -> bytes:
    png, text = made("png", 64, 64), chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(_MEGABYTE)))
    return png[:33] + text * 100 + png[33:]


def _with_huge_exif() -> bytes:
    jpeg = made("jpeg", 640, 480)
    return jpeg[:2] + segment(0xE1, b"Exif\0\0" + random.Random(1).randbytes(65_000)) * 300 + jpeg[2:]


def _claims(start: bytes, at: int, form: str, *size: int) -> bytes:
    """A picture whose header has been given another size."""
    packed = struct.pack(form, *size)
    return start[:at] + packed + start[at + len(packed) :]


def _jpeg_that_claims(width: int, height: int) -> bytes:
    jpeg = made("jpeg", 64, 64)
    return _claims(jpeg, jpeg.index(b"\xff\xc0") + 5, ">HH", height, width)


def _animated(kind: str, frames: int) -> bytes:
    first, *others = (Image.new("RGB", (400, 300), (number % 256, 0, 0)) for number in range(frames))
    data = BytesIO()
    first.save(data, kind, save_all=True, append_images=others)
    return data.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "a PNG that claims 900 megapixels.png": (lambda: black_png(30_000, 30_000, is_whole=False), "too big: "),
    "a PNG of 100 megapixels.png": (lambda: black_png(10_000, 10_000), None),
    "a JPEG of 100 megapixels.jpg": (lambda: made("jpeg", 12_000, 8_333), None),
    "a progressive JPEG of 80.jpg": (lambda: made("jpeg", 10_000, 8_000, progressive=True), None),
    "a JPEG that claims 4 gigapixels.jpg": (lambda: _jpeg_that_claims(65_500, 65_500), "too big: "),
    "a JPEG that claims 90 megapixels.jpg": (lambda: _jpeg_that_claims(10_000, 9_000), None),
    "a GIF that claims 4 gigapixels.gif": (
        lambda: _claims(made("gif", 64, 64), 6, "<HH", 65_535, 65_535),
        "too big: ",
    ),
    "a BMP that claims 2 gigapixels.bmp": (
        lambda: _claims(made("bmp", 64, 64), 18, "<ii", 50_000, 50_000),
        "too big: ",
    ),
    "a WebP that claims 200 megapixels.webp": (
        lambda: _claims(made("webp", 64, 64, "RGBA", lossless=True), 21, "<I", 14_141 | 14_141 << 14),
        "too big: ",
    ),
    "a WebP of 42 megapixels.webp": (lambda: made("webp", 7_000, 6_000, "L", method=0, quality=1), None),
    "a TIFF of 90 megapixels.tif": (
        lambda: made("tiff", 10_000, 9_000, "L", compression="tiff_deflate"),
        None,
    ),
    "a GIF of 100 pictures.gif": (lambda: _animated("gif", 100), None),
    "a WebP of 100 pictures.webp": (lambda: _animated("webp", 100), None),
    "a JPEG with 19 MB of EXIF.jpg": (_with_huge_exif, None),
    "a PNG with 100 MB of text.png": (_with_text_bombs, None),
    "half a JPEG.jpg": (lambda: made("jpeg", 4000, 3000)[:40_000], "damaged jpeg image: "),
    "half a PNG.png": (lambda: made("png", 2000, 2000)[:5_000], "damaged png image: "),
    "a line.png": (lambda: made("png", 1, 1_000_000, "L"), None),
    "16 bits.png": (lambda: made("png", 5000, 4000, "I;16"), None),
    "for a printer.jpg": (lambda: made("jpeg", 6000, 4000, "CMYK"), None),
}
"""By file name: the picture, and how the reason begins for which it is refused; None if it is not."""
