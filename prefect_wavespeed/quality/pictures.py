"""What a picture is, told from its bytes. Decoding is CPU work: call ``examine_output`` and ``thumbnail``
in a thread (``asyncio.to_thread``)."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageOps

from prefect_wavespeed.errors import OutputError, SourceError

SOURCE_LIMIT = 20 * 1024 * 1024  # bytes that WaveSpeedAI takes as an upload
SOURCE_PIXELS = 100_000_000
THUMBNAIL_EDGE = 128  # pixels
OUTPUT_PIXELS = 4096 * 4096  # the model's biggest is 1536 * 1536; far more is a decompression bomb

CONTENT_TYPES = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
}

# Decoders do without them when all pixels are there; a file without its end is not whole all the same.
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class ImageInfo:
    """A picture's format (a key of ``CONTENT_TYPES``), content type, and size in pixels."""

    format: str
    content_type: str
    width: int
    height: int


def sniff(data: bytes) -> str | None:
    """Tell a picture's format from its first bytes; None when it is no picture that we know."""
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


def verify_output(data: bytes, expected_format: str) -> ImageInfo:
    """Read an output to its last byte and tell what it is.

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
        raise OutputError(f"the output is {found}, not {expected_format} as asked")
    try:
        if found == "png":  # its checksums and its end, which load() does not need
            _open(data, found, OUTPUT_PIXELS).verify()
        image = _open(data, found, OUTPUT_PIXELS)
        info = ImageInfo(found, CONTENT_TYPES[found], image.width, image.height)
        # A JPEG decoded small has its compressed data read in full all the same, at half the cost.
        image.draft("RGB", (THUMBNAIL_EDGE, THUMBNAIL_EDGE))
        image.load()
        if _ENDS.get(found, b"") not in data:
            raise ValueError("its end is missing")
        small = _small_jpeg(image, THUMBNAIL_EDGE, quality=60) if with_thumbnail else None
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"the output does not decode: {error}") from None
    return info, small


def verify_source(data: bytes, name: str) -> ImageInfo:
    """Check cheaply, from the header alone, that a source can be sent. ``name`` is for the error only.

    Raises:
        SourceError: it is no image, or over 20 MB.
    """
    if len(data) > SOURCE_LIMIT:
        raise SourceError(f"{name} is {len(data) / 1024 / 1024:.1f} MB: WaveSpeed takes images up to 20 MB")
    found = sniff(data)
    if found is None:
        raise SourceError(f"{name} is not an image (known are {', '.join(CONTENT_TYPES)})")
    try:
        image = _open(data, found)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise SourceError(f"{name} is not a whole {found} image: {error}") from None
    return ImageInfo(found, CONTENT_TYPES[found], image.width, image.height)


def thumbnail(data: bytes, edge: int = 160) -> bytes:
    """Return the picture as a small JPEG, upright, with no side longer than ``edge`` pixels.

    Raises:
        OutputError: it is no image, or does not decode.
    """
    try:
        image = _open(data, sniff(data) or "")
        image.draft("RGB", (edge, edge))
        return _small_jpeg(image, edge, quality=80)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"no thumbnail can be made of this: {error}") from None


def _small_jpeg(image: Image.Image, edge: int, quality: int) -> bytes:
    image = ImageOps.exif_transpose(image)
    image.thumbnail((edge, edge))
    small = BytesIO()
    image.convert("RGB").save(small, "JPEG", quality=quality)
    return small.getvalue()


def _open(data: bytes, kind: str, max_pixels: int = SOURCE_PIXELS) -> Image.Image:
    """Read the header with this format's decoder and no other."""
    image = Image.open(BytesIO(data), formats=[kind])
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width}x{image.height} pixels are too many")
    return image
