"""Formats of pictures, recognized by their first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

MAX_SOURCE_PIXELS = 100_000_000

CONTENT_TYPES = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}


@dataclass(frozen=True)
class ImageInfo:
    """A picture's format (a key of ``CONTENT_TYPES``), content type, and size in pixels."""

    format: str
    content_type: str
    width: int
    height: int


def sniff(data: bytes) -> str | None:
    """A picture's format; None when it is not one of ``CONTENT_TYPES``."""
    match data[:2]:
        case b"\xff\xd8" if data[2:3] == b"\xff":
            return "jpeg"
        case b"\x89P" if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return "png"
        case b"RI" if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return "webp"
        case b"GI" if data.startswith((b"GIF87a", b"GIF89a")):
            return "gif"
        case b"BM":
            return "bmp"
        case b"II" | b"MM" if data.startswith((b"II*\0", b"MM\0*")):
            return "tiff"
        case _ if data[4:12] in (b"ftypavif", b"ftypavis"):
            return "avif"
    return None


def open_image(data: bytes, kind: str, max_pixels: int = MAX_SOURCE_PIXELS) -> Image.Image:
    """Read the header, with one format's decoder and no other.

    Raises:
        Exception: whatever Pillow's decoders raise; ValueError when the picture has more than ``max_pixels``.
    """
    image = Image.open(BytesIO(data), formats=[kind])
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width}x{image.height} pixels are too many")
    return image


def image_info(image: Image.Image, kind: str) -> ImageInfo:
    """A picture's format and size."""
    return ImageInfo(kind, CONTENT_TYPES[kind], image.width, image.height)
