"""Whether a picture is whole and what it claims to be: sources by their header, outputs to their last byte.

Decoding is CPU work: call ``examine_output`` in a thread (``asyncio.to_thread``).
"""

from __future__ import annotations

from prefect_wavespeed.errors import OutputError, SourceError
from prefect_wavespeed.quality.formats import CONTENT_TYPES, ImageInfo, image_info, open_image, sniff
from prefect_wavespeed.quality.thumbnails import small_jpeg

MAX_SOURCE_BYTES = 20 * 1024 * 1024  # that WaveSpeedAI takes as an upload
OUTPUT_PIXELS = 4096 * 4096  # the model's biggest is 1536 * 1536; far more is a decompression bomb
THUMBNAIL_EDGE = 128  # pixels

# Decoders do without them when all pixels are there; a file without its end is not whole all the same.
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


def verify_output(data: bytes, expected_format: str) -> ImageInfo:
    """Decode an output to its last byte.

    Raises:
        OutputError: it is no image, not of the expected format, too big to decode, or cut short.
    """
    return examine_output(data, expected_format, with_thumbnail=False)[0]


def examine_output(
    data: bytes, expected_format: str, *, with_thumbnail: bool
) -> tuple[ImageInfo, bytes | None]:
    """``verify_output``, and a small JPEG of the picture (2 to 3 KB) from the same decoding if wanted.

    Raises:
        OutputError: as ``verify_output``.
    """
    found = sniff(data)
    if found is None:
        raise OutputError("the output is not an image")
    if found != expected_format:
        raise OutputError(f"the output is {found}, not {expected_format} as requested")
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
        small = small_jpeg(image, THUMBNAIL_EDGE, quality=60) if with_thumbnail else None
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"the output does not decode: {error}") from None
    return info, small


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
        raise SourceError(f"not an image: {name}: use {', '.join(CONTENT_TYPES)}")
    try:
        image = open_image(data, found)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise SourceError(f"damaged {found} image: {name}: {error}") from None
    return image_info(image, found)


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
