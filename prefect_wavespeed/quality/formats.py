"""Formats of pictures, recognized by their first bytes."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import TypeVar

from PIL import ExifTags, Image, UnidentifiedImageError

from prefect_wavespeed.errors import redact
from prefect_wavespeed.quality.other_formats import PICTURE_ENDINGS, file_brands
from prefect_wavespeed.quality.structure import without_metadata
from prefect_wavespeed.settings import get_settings

_T = TypeVar("_T")

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

ENDINGS = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
    "png": (".png", ".apng"),
    "webp": (".webp",),
    "gif": (".gif",),
    "bmp": (".bmp", ".dib"),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif", ".avifs"),
}
"""By format, what files' names end in; the first is the usual one, and of JPEG the first two are."""

_LYING = (5, 6, 7, 8)  # EXIF orientations that turn a picture by 90 degrees
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")

# What is worth a word about a picture is said here; Pillow's own would show its path on a terminal.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class ImageInfo:
    """A picture's format, which is a file's ending, too; its content type; its pixels, None if not known."""

    format: str
    content_type: str
    width: int | None = None
    height: int | None = None


class TooManyPixelsError(ValueError):
    """A picture has more pixels than are decoded.

    Attributes:
        width, height: in pixels; None where only their product is known.
    """

    def __init__(self, width: int | None, height: int | None, product: int = 0) -> None:
        shown = f"{width}×{height}" if width else f"{product:,}"
        super().__init__(f"{shown} pixels are too many")
        self.width, self.height = width, height


def sniff(data: bytes) -> str | None:
    """A picture's format; None when it is not one of ``CONTENT_TYPES``."""
    match data[:2]:
        case b"\xff\xd8" if data[2:3] == b"\xff" and data[3:4] != b"\xf7":  # that would be JPEG-LS
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
        case _ if _is_avif(data):
            return "avif"
    return None


def _is_avif(data: bytes) -> bool:
    brands = file_brands(data)
    if brands[:1] in ([b"mif1"], [b"msf1"]):  # for any codec: the others say which
        return not {b"avif", b"avis"}.isdisjoint(brands)
    return brands[:1] in ([b"avif"], [b"avis"])


def is_source_format(kind: str) -> bool:
    """Whether a picture of a format of ``CONTENT_TYPES`` may be a source."""
    return kind != "avif" or get_settings().accept_avif


def endings() -> frozenset[str]:
    """Endings of the names of pictures that may be sources, in lower case, with their dot."""
    return frozenset(ending for kind, known in ENDINGS.items() if is_source_format(kind) for ending in known)


def true_name(name: str, kind: str) -> str:
    """A file's name with the ending of what it is: whoever fetches it may go by that."""
    ending = PurePosixPath(name).suffix.lower()
    if ending in (ENDINGS[kind][:2] if kind == "jpeg" else ENDINGS[kind]):
        return name
    is_misleading = ending in PICTURE_ENDINGS or any(ending in known for known in ENDINGS.values())
    stem = name[: -len(ending)] if is_misleading else name
    return f"{stem}{ENDINGS[kind][0]}"


def decoding_problem(error: Exception) -> str:
    """What a decoder's error says, without objects' addresses."""
    if isinstance(error, UnidentifiedImageError) or _ADDRESS.search(str(error)):
        return "it is cut short or broken"
    return redact(error)


def open_image(data: bytes, kind: str, max_pixels: int = MAX_SOURCE_PIXELS) -> Image.Image:
    """Read the header, with one format's decoder and no other.

    Raises:
        Exception: whatever Pillow's decoders raise; TooManyPixelsError when there are more than
            ``max_pixels``, or some 180 million.
    """
    if kind == "webp":
        _check_pixels(*webp_size(data), max_pixels)  # opening one takes memory for two pictures
    try:
        image = Image.open(BytesIO(data), formats=[kind])
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise TooManyPixelsError(None, None, int(pixels[0]) if pixels else 0) from None
    _check_pixels(*image.size, max_pixels)
    return image


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise TooManyPixelsError(width, height)


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP by its first chunk; 0 if it is broken."""
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def tried_plain(work: Callable[[bytes], _T], data: bytes, kind: str) -> tuple[_T, str | None]:
    """Do something with a picture; where that fails because of its metadata, with the picture without them.

    Most of what decoders stumble over is beside the picture: a text, a profile, a checksum of either.

    Returns:
        What the work returns, and what is wrong with the metadata.

    Raises:
        Exception: what the work raises.
    """
    try:
        return work(data), None
    except TooManyPixelsError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds
        if (plain := without_metadata(data, kind)) is None:
            raise
        try:
            return work(plain), f"its metadata are broken: {decoding_problem(error)}"
        except Exception:
            raise error from None


def upright_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture as it is seen, by its EXIF orientation.

    Args:
        data: the picture, or its beginning.

    Returns:
        None if that cannot be told from the data.
    """
    kind = sniff(data) or ""
    try:
        image, _ = tried_plain(lambda data: open_image(data, kind), data, kind)
        lies = image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
    except Exception:  # Pillow's decoders raise all kinds
        return None
    return (image.height, image.width) if lies else image.size


def header_info(data: bytes, kind: str) -> ImageInfo:
    """A picture's format and size, which take little memory to find out.

    Raises:
        Exception: as ``open_image``.
    """
    if kind != "webp":
        return image_info(open_image(data, kind), kind)
    width, height = webp_size(data)
    _check_pixels(width, height, MAX_SOURCE_PIXELS)
    if not width * height:
        raise ValueError("it is cut short or broken")
    return ImageInfo(kind, CONTENT_TYPES[kind], width, height)


def image_info(image: Image.Image, kind: str) -> ImageInfo:
    """A picture's format and size."""
    return ImageInfo(kind, CONTENT_TYPES[kind], image.width, image.height)
