"""Whether a picture is whole and what it claims to be: sources by their header, outputs to their last byte.

Decoding is CPU work: call ``examine_output`` in a thread (``asyncio.to_thread``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from prefect_wavespeed.errors import OutputError, SourceError
from prefect_wavespeed.quality.formats import (
    CONTENT_TYPES,
    ImageInfo,
    decoding_problem,
    image_info,
    is_source_format,
    open_image,
    sniff,
)
from prefect_wavespeed.quality.other_formats import (
    RAW,
    RAW_ENDINGS,
    by_ending,
    is_raw_tiff,
    other_format,
    unsupported,
)
from prefect_wavespeed.quality.outputs import is_blank
from prefect_wavespeed.quality.thumbnails import reduced, small_jpeg

MAX_SOURCE_BYTES = 20 * 1024 * 1024  # that WaveSpeedAI takes as an upload
OUTPUT_PIXELS = 4096 * 4096  # the model's biggest is 1536 * 1536; far more is a decompression bomb
THUMBNAIL_EDGE = 128  # pixels

# Decoders do without them when all pixels are there; a file without its end is not whole all the same.
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class Examined:
    """What decoding an output showed.

    Attributes:
        info: its format and size.
        blank: it is of one colour all over.
        thumbnail: a small JPEG of it (2 to 3 KB), where that was wanted.
    """

    info: ImageInfo
    blank: bool
    thumbnail: bytes | None


def examine_output(data: bytes, *, with_thumbnail: bool) -> Examined:
    """Decode an output to its last byte.

    Raises:
        OutputError: it is no image, too big to decode, or cut short.
    """
    found = sniff(data)
    if found is None:
        raise OutputError("the output is not an image")
    try:
        if found == "png":  # its checksums and its end, which load() does not need
            open_image(data, found, OUTPUT_PIXELS).verify()
        image = open_image(data, found, OUTPUT_PIXELS)
        info = image_info(image, found)
        # A JPEG decoded small has its compressed data read in full all the same, at half the cost.
        image.draft("RGB", (THUMBNAIL_EDGE, THUMBNAIL_EDGE))
        image.load()
        if _ENDS.get(found, b"") not in data:
            raise ValueError("its end is missing")
        small = reduced(image, THUMBNAIL_EDGE)
        return Examined(info, is_blank(small), small_jpeg(small, quality=60) if with_thumbnail else None)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"the output does not decode: {decoding_problem(error)}") from None


def verify_source(data: bytes, name: str) -> ImageInfo:
    """Check cheaply, from the header alone, that a source can be sent.

    Args:
        data: the picture.
        name: of the source, for the error.

    Raises:
        SourceError: it is no image, or over 20 MB.
    """
    check_source_size(len(data), name)
    found = sniff(data)
    if found is None:
        raise SourceError(_refusal(data, name))
    if not is_source_format(found):
        setting = f"RESTYLE_ACCEPT_{found.upper()}=true"
        raise SourceError(
            f"{found.upper()} is not supported: {name}: convert it to JPEG, or set {setting} where "
            "WaveSpeedAI takes it"
        )
    if found == "tiff" and (is_raw_tiff(data) or PurePosixPath(name).suffix.lower() in RAW_ENDINGS):
        raise SourceError(unsupported(RAW, name))
    try:
        image = open_image(data, found)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise SourceError(f"damaged {found} image: {name}: {decoding_problem(error)}") from None
    return image_info(image, found)


def _refusal(data: bytes, name: str) -> str:
    if other := other_format(data) or (by_ending(name) if data else None):
        return unsupported(other, name)
    known = ", ".join(filter(is_source_format, CONTENT_TYPES))
    return f"not an image{'' if data else ' but an empty file'}: {name}: use {known}"


def check_source_size(size: int, name: str) -> None:
    """Refuse a source with more bytes than WaveSpeedAI takes.

    Args:
        size: in bytes.
        name: of the source, for the error.

    Raises:
        SourceError: it is over 20 MB.
    """
    if size > MAX_SOURCE_BYTES:
        raise SourceError(
            f"too big ({size / 2**20:.1f} MB): {name}: WaveSpeedAI takes images up to "
            f"{MAX_SOURCE_BYTES / 2**20:.0f} MB"
        )
