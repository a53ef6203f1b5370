"""Small JPEGs for people to look at. Decoding is CPU work: call ``thumbnail`` in a thread."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageOps

from prefect_wavespeed.errors import OutputError
from prefect_wavespeed.quality.formats import open_image, sniff


def thumbnail(data: bytes, edge: int = 160) -> bytes:
    """The picture as a small JPEG, upright, with no side longer than ``edge`` pixels.

    Raises:
        OutputError: it is no image, or does not decode.
    """
    try:
        image = open_image(data, sniff(data) or "")
        image.draft("RGB", (edge, edge))
        return small_jpeg(image, edge, quality=80)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"no thumbnail can be made: {error}") from None


def small_jpeg(image: Image.Image, edge: int, quality: int) -> bytes:
    """An open picture as a small JPEG, upright, with no side longer than ``edge`` pixels."""
    image = ImageOps.exif_transpose(image)
    image.thumbnail((edge, edge))
    small = BytesIO()
    image.convert("RGB").save(small, "JPEG", quality=quality)
    return small.getvalue()
