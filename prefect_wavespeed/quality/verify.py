"""Whether a picture is whole and what it claims to be.

Decoding is CPU work: call what examines in a thread (``asyncio.to_thread``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from prefect_wavespeed.errors import OutputError, SourceError
from prefect_wavespeed.quality.decoding import decode, small_jpeg
from prefect_wavespeed.quality.formats import (
    CONTENT_TYPES,
    MAX_SOURCE_PIXELS,
    ImageInfo,
    TooManyPixelsError,
    decoding_problem,
    header_info,
    is_source_format,
    sniff,
    tried_plain,
)
from prefect_wavespeed.quality.other_formats import (
    RAW,
    RAW_ENDINGS,
    by_ending,
    is_raw_tiff,
    kept_as,
    other_format,
    unsupported,
)
from prefect_wavespeed.quality.outputs import is_blank
from prefect_wavespeed.quality.structure import CHECKED, damage

MAX_SOURCE_BYTES = 20 * 1024 * 1024  # that WaveSpeedAI takes as an upload
OUTPUT_PIXELS = 4096 * 4096  # the model's biggest is 1536 * 1536; far more is a decompression bomb
THUMBNAIL_EDGE = 128  # pixels


@dataclass(frozen=True)
class Examined:
    """What decoding a picture showed.

    Attributes:
        info: its format and size.
        blank: it is of one colour all over.
        thumbnail: a small JPEG of it (2 to 3 KB), where that was wanted and can be made.
        odd: what is unusual about it, though it is whole; None if nothing is.
    """

    info: ImageInfo
    blank: bool = False
    thumbnail: bytes | None = None
    odd: str | None = None


def examine_output(data: bytes, *, with_thumbnail: bool) -> Examined:
    """Decode an output to its last byte, if it is of a format and a size that can be decoded here.

    Raises:
        OutputError: it is no image, or cut short.
    """
    found = sniff(data)
    if found is None:
        if kept := kept_as(data):
            return Examined(ImageInfo(*kept), odd=f"{kept[0].upper()} cannot be decoded here")
        raise OutputError("the output is not an image")
    try:
        return _examined(data, found, with_thumbnail=with_thumbnail, max_pixels=OUTPUT_PIXELS)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise OutputError(f"the output does not decode: {decoding_problem(error)}") from None


def undecoded(data: bytes) -> ImageInfo | None:
    """What an output is that does not decode; None unless it is whole, as far as its structure says."""
    kind = sniff(data)
    if kind not in CHECKED or damage(data, kind):
        return None
    try:
        return header_info(data, kind)
    except TooManyPixelsError as error:
        return ImageInfo(kind, CONTENT_TYPES[kind], error.width, error.height)
    except Exception:  # Pillow's decoders raise all kinds
        return ImageInfo(kind, CONTENT_TYPES[kind])


def examine_source(data: bytes, name: str, *, with_thumbnail: bool) -> Examined:
    """Decode a source to its last byte, unless it is too big for that.

    Args:
        data: the picture.
        name: of the source, for the error.
        with_thumbnail: whether a thumbnail is wanted.

    Raises:
        SourceError: it cannot be sent, as ``verify_source`` says, or does not decode.
    """
    found = verify_source(data, name).format
    try:
        return _examined(data, found, with_thumbnail=with_thumbnail)
    except Exception as error:  # Pillow's decoders raise all kinds
        raise _damaged(found, name, decoding_problem(error)) from None


def _examined(
    data: bytes, kind: str, *, with_thumbnail: bool, max_pixels: int = MAX_SOURCE_PIXELS
) -> Examined:
    decoded = decode(data, kind, THUMBNAIL_EDGE, max_pixels)
    if decoded.small is None:
        return Examined(decoded.info, odd=decoded.odd)
    thumbnail = small_jpeg(decoded.small, quality=60) if with_thumbnail else None
    return Examined(decoded.info, is_blank(decoded.small), thumbnail, decoded.odd)


def verify_source(data: bytes, name: str) -> ImageInfo:
    """Check cheaply, without decoding it, that a source can be sent.

    Args:
        data: the picture.
        name: of the source, for the error.

    Raises:
        SourceError: it is no image, cut short, or over 20 MB.
    """
    check_source_size(len(data), name)
    found = check_format(data, name)
    try:
        info, _ = tried_plain(lambda data: header_info(data, found), data, found)
    except TooManyPixelsError as error:
        most = f"{MAX_SOURCE_PIXELS // 10**6} million"
        raise SourceError(f"too big: {error}: {name}: scale it down to {most} pixels at most") from None
    except Exception as error:  # Pillow's decoders raise all kinds
        raise _damaged(found, name, decoding_problem(error)) from None
    if problem := damage(data, found):
        raise _damaged(found, name, problem)
    return info


def _damaged(kind: str, name: str, problem: str) -> SourceError:
    return SourceError(f"damaged {kind} image: {name}: {problem}")


def check_format(data: bytes, name: str) -> str:
    """The format of a source, by its first bytes.

    Args:
        data: the picture, or its beginning.
        name: of the source, for the error.

    Raises:
        SourceError: it is no image that WaveSpeedAI takes.
    """
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
    return found


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
