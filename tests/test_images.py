"""Formats are recognized by their bytes, broken pictures are refused, thumbnails are made."""

from __future__ import annotations

import random
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from prefect_wavespeed.errors import OutputError, SourceError
from prefect_wavespeed.quality.formats import CONTENT_TYPES, ImageInfo, sniff
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.quality.verify import (
    MAX_SOURCE_BYTES,
    THUMBNAIL_EDGE,
    examine_output,
    examine_source,
    verify_source,
)

OUTPUT_FORMATS = ["jpeg", "png", "webp"]


def picture(kind: str, width: int = 96, height: int = 64, **options: Any) -> bytes:
    data = BytesIO()
    image = Image.merge("RGB", [Image.effect_noise((width, height), spread) for spread in (40, 60, 80)])
    image.save(data, kind, **options)
    return data.getvalue()


def verified(data: bytes) -> ImageInfo:
    return examine_output(data, with_thumbnail=False).info


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG that says that it is huge."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_a_format_is_recognized_by_the_first_bytes(kind: str) -> None:
    assert sniff(picture(kind)) == kind


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"<html>", b"RIFF\0\0\0\0WAVE", b"\x89PNx", b"\0\0\0\x18ftypmp42", b"%PDF-1.7"]
)
def test_what_is_no_picture_has_no_format(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
def test_a_whole_output_is_described(kind: str) -> None:
    assert verified(picture(kind)) == ImageInfo(kind, f"image/{kind}", 96, 64)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("jpeg", {}),
        ("jpeg", {"progressive": True}),
        ("png", {}),
        ("webp", {}),
        ("webp", {"lossless": True}),
    ],
)
def test_an_output_is_cut_short_wherever_it_is_cut(kind: str, options: dict[str, Any]) -> None:
    whole = picture(kind, **options)
    for length in [*range(1, len(whole) - 40, 97), *range(len(whole) - 40, len(whole))]:
        with pytest.raises(OutputError) as caught:
            verified(whole[:length])
        assert caught.value.retryable


@pytest.mark.parametrize("data", [b"", b"<html>Not here</html>", b"\xff\xd8\xff and so on"])
def test_an_output_must_be_an_image(data: bytes) -> None:
    with pytest.raises(OutputError):
        verified(data)


def test_a_jpeg_without_its_end_is_cut_short_even_when_all_pixels_are_there() -> None:
    for _ in range(50):  # about one in ten decodes without its end
        with pytest.raises(OutputError):
            verified(picture("jpeg")[:-1])


def test_a_flipped_byte_in_a_png_is_found() -> None:
    whole = bytearray(picture("png"))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(OutputError):
        verified(bytes(whole))


@pytest.mark.parametrize("size", [(5000, 5000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_an_output_with_too_many_pixels_is_kept_and_not_decoded(size: tuple[int, int]) -> None:
    examined = examine_output(bomb(*size), with_thumbnail=True)
    assert examined.thumbnail is None
    assert "pixels are too many to be decoded here" in str(examined.odd)


def test_an_output_without_pixels_is_none() -> None:
    with pytest.raises(OutputError):
        verified(bomb(0, 0))


def after_header(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data


TEXT_BOMB = b"key\0\0" + zlib.compress(bytes(3 << 20))
BAD_CHECKSUM = chunk(b"tEXt", b"key\0value")[:-1] + b"?"
BESIDE_THE_PICTURE = {
    "a text that unpacks to megabytes": after_header(picture("png"), chunk(b"zTXt", TEXT_BOMB)),
    "80 such texts": after_header(
        picture("png"), *[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))] * 80
    ),
    "such a text at the end": picture("png")[:-12] + chunk(b"zTXt", TEXT_BOMB) + picture("png")[-12:],
    "a text with a wrong checksum": after_header(picture("png"), BAD_CHECKSUM),
    "a cut colour profile": picture("jpeg")[:2] + segment(0xE2, b"ICC_PROFILE\0") + picture("jpeg")[2:],
    "a profile that unpacks to megabytes": after_header(picture("png"), chunk(b"iCCP", TEXT_BOMB)),
    "an empty gamma": after_header(picture("png"), chunk(b"gAMA", b"")),
    "EXIF that is none, in a PNG": after_header(picture("png"), chunk(b"eXIf", b"none")),
    "EXIF that is none, in a WebP": picture("webp", exif=b"Exif\0\0none"),
    "a piece of an animation": after_header(picture("png"), chunk(b"fdAT", b"")),
}


@pytest.mark.parametrize("data", BESIDE_THE_PICTURE.values(), ids=BESIDE_THE_PICTURE)
def test_what_is_broken_beside_the_picture_costs_neither_output_nor_thumbnail_nor_source(data: bytes) -> None:
    examined = examine_output(data, with_thumbnail=True)
    assert (examined.info.width, examined.info.height) == (96, 64)
    assert examined.thumbnail
    assert "broken" in str(examined.odd)
    assert examine_source(data, "image x", with_thumbnail=True).thumbnail


@pytest.mark.parametrize(
    ("start", "ending"), [(b"\xff\x0a", "jxl"), (b"\0\0\0\x18ftypheic" + bytes(12), "heic"), (b"8BPS", "psd")]
)
def test_an_output_of_a_format_that_is_not_decoded_here_is_kept(start: bytes, ending: str) -> None:
    examined = examine_output(start + bytes(100), with_thumbnail=True)
    assert (examined.info.format, examined.thumbnail, examined.info.width) == (ending, None, None)
    assert examined.odd == f"{ending.upper()} cannot be decoded here"


def with_thumbnail_inside(whole: bytes) -> bytes:
    """A JPEG whose EXIF block holds a JPEG with an end of its own."""
    return whole[:2] + segment(0xE1, b"Exif\0\0" + picture("jpeg", 16, 16)) + whole[2:]


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
def test_a_source_that_is_cut_short_is_refused_without_decoding(kind: str) -> None:
    whole = picture(kind)
    if kind == "jpeg":
        whole = with_thumbnail_inside(whole)
    assert verify_source(whole, "image x").width == 96
    assert verify_source(whole + b"what a phone adds \xff\xda", "image x").width == 96
    for end in range(len(whole) // 3, len(whole), len(whole) // 15):
        with pytest.raises(SourceError, match=r"^damaged \w+ image: image x: "):
            verify_source(whole[:end], "image x")


def test_a_source_whose_pixels_are_broken_is_refused() -> None:
    whole = picture("png")
    start = whole.index(b"IDAT")
    broken = whole[: start - 4] + chunk(b"IDAT", b"no pixels") + whole[-12:]
    with pytest.raises(SourceError, match=r"^damaged png image: image x: "):
        examine_source(broken, "image x", with_thumbnail=False)


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
def test_a_source_is_described_from_its_header(kind: str) -> None:
    whole = picture(kind)
    assert verify_source(whole, "cat") == ImageInfo(kind, f"image/{kind}", 96, 64)


def test_a_source_over_20_mb_is_refused() -> None:
    fits = picture("jpeg").ljust(MAX_SOURCE_BYTES, b"\0")
    assert verify_source(fits, "cat.jpg").format == "jpeg"
    with pytest.raises(SourceError, match=r"too big \(20\.0 MB\): cat\.jpg: .* up to 20 MB"):
        verify_source(fits + b"\0", "cat.jpg")


@pytest.mark.parametrize("data", [b"", b"a story", b"\x89PNG\r\n\x1a\n", b"GIF89a", bomb(30_000, 30_000)])
def test_a_source_that_is_no_picture_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"cat\.jpg") as caught:
        verify_source(data, "cat.jpg")
    assert not caught.value.retryable


@pytest.mark.parametrize("kind", [kind for kind in CONTENT_TYPES if kind != "avif"])
def test_a_thumbnail_is_a_small_jpeg(kind: str) -> None:
    small = Image.open(BytesIO(thumbnail(picture(kind, 640, 320))))
    assert (small.format, small.size) == ("JPEG", (160, 80))


def test_a_thumbnail_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    small = Image.open(BytesIO(thumbnail(picture("jpeg", 640, 320, exif=exif), edge=100)))
    assert small.size == (50, 100)


def test_a_text_has_no_thumbnail() -> None:
    with pytest.raises(OutputError):
        thumbnail(b"a story")


# Outputs are decoded at a fraction of their size: that must not let a broken one pass.


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("edge", [64, 300, 1024])
def test_a_jpeg_that_lacks_a_byte_anywhere_is_not_whole(edge: int, progressive: bool) -> None:
    whole = picture("jpeg", edge, edge, progressive=progressive)
    assert verified(whole).width == edge
    for end in range(2, len(whole), len(whole) // 40):
        with pytest.raises(OutputError):
            verified(whole[:end])


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize(("edge", "rounds"), [(64, 60), (300, 60), (1024, 8)])
def test_a_jpeg_is_refused_wherever_a_full_decoding_would_refuse_it(
    edge: int, rounds: int, progressive: bool
) -> None:
    """64 is decoded in full, 300 at half its size, 1024 at an eighth."""
    chance = random.Random(edge)
    whole = picture("jpeg", edge, edge, progressive=progressive)
    refused = 0
    for _ in range(rounds):
        at = chance.randrange(2, len(whole))
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        garbage = whole[:at] + chance.randbytes(len(whole) - at)
        for broken in (
            bytes(flipped),
            garbage,
            whole[:at] + bytes(len(whole) - at),
            whole[:at] + b"\xff\xd9",
        ):
            refused += not is_whole(broken)
            assert is_whole(broken) == (decodes_in_full(broken) and b"\xff\xd9" in broken)
    assert refused > 1.6 * rounds


def is_whole(data: bytes) -> bool:
    try:
        verified(data)
    except OutputError:
        return False
    return True


def decodes_in_full(data: bytes) -> bool:
    try:
        Image.open(BytesIO(data), formats=["jpeg"]).load()
    except Exception:
        return False
    return True


@pytest.mark.parametrize("kind", OUTPUT_FORMATS)
@pytest.mark.parametrize(("width", "height"), [(256, 256), (1536, 256), (300, 420), (20, 10)])
def test_what_verifies_an_output_also_gives_its_thumbnail(kind: str, width: int, height: int) -> None:
    examined = examine_output(picture(kind, width, height), with_thumbnail=True)
    assert (examined.info.width, examined.info.height) == (width, height)
    assert examined.thumbnail
    shown = Image.open(BytesIO(examined.thumbnail))
    assert shown.format == "JPEG"
    assert max(shown.size) == min(THUMBNAIL_EDGE, max(width, height))
    assert abs(shown.width / shown.height - width / height) < width / height / 5
    assert examine_output(picture(kind, width, height), with_thumbnail=False).thumbnail is None
