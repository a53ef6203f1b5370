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
        return small_jpeg(reduced(image, edge), quality=80)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"no thumbnail can be made: {error}") from None


def reduced(image: Image.Image, edge: int) -> Image.Image:
    """An open picture, upright, with no side longer than ``edge`` pixels."""
    if image.mode.startswith("I;16"):  # grey in 16 bits, which Pillow cannot reduce
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    small = ImageOps.exif_transpose(image)
    small.thumbnail((edge, edge))
    return small


def small_jpeg(image: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG, where it has a transparent ground without it."""
    data = BytesIO()
    image.convert("RGB").save(data, "JPEG", quality=quality)
    return data.getvalue()
