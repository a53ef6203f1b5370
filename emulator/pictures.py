"""Real variations: the picture itself, cropped to the size asked for and restyled by the seed."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageOps

_ENCODERS: dict[str, dict[str, int]] = {
    "jpeg": {"quality": 90},
    "png": {"compress_level": 1},
    "webp": {"quality": 85, "method": 0},
}


class NotAPictureError(ValueError):
    """The bytes are not a picture that can be decoded."""


def variation(source: bytes, width: int, height: int, output_format: str, seed: int, guidance: float) -> bytes:
    """Restyle a picture. The same arguments give the same bytes.

    Args:
        source: an encoded picture.
        width: of the result in pixels; the source is scaled and cropped to cover it.
        height: of the result in pixels.
        output_format: jpeg, png or webp.
        seed: chooses the style.
        guidance: 1 to 20; more keeps more of the source.

    Raises:
        NotAPictureError: the source cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(source)) as opened:
            opened.draft("RGB", (width, height))
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:
        raise NotAPictureError(str(error)) from None
    picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    rng = random.Random(seed)
    red, green, blue = (band.point([int(v * rng.uniform(0.5, 1)) for v in range(256)]) for band in picture.split())
    return encode(Image.merge("RGB", (red, green, blue)), output_format)


def encode(picture: Image.Image, output_format: str) -> bytes:
    """The picture as a file."""
    out = io.BytesIO()
    picture.save(out, output_format.upper(), **_ENCODERS[output_format])
    return out.getvalue()


def sample(width: int, height: int, output_format: str) -> bytes:
    """A picture of that size made of nothing."""
    return encode(Image.effect_noise((width, height), 40).convert("RGB"), output_format)


def in_another_format(data: bytes, content_type: str) -> bytes:
    """The picture as PNG, or as JPEG where it is a PNG."""
    with Image.open(io.BytesIO(data)) as opened:
        return encode(opened.convert("RGB"), "jpeg" if content_type == "image/png" else "png")
