"""What a file is that WaveSpeedAI does not take, by its first bytes, and what to do about it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

_CONVERT = "convert it to JPEG"
_EXPORT = "export it as JPEG"
_FRAME = "export a picture of it as JPEG"


def _endings(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


RAW_ENDINGS = _endings(
    "3fr arw bay cap cr2 cr3 crw dcr dng eip erf fff gpr iiq k25 kdc mdc mef mos mrw nef nrw orf pef ptx qtk "
    "raf raw rw2 rwl rwz sr2 srf srw x3f"
)
_UNMARKED_ENDINGS = _endings(
    "tga pcx ppm pgm pbm pnm pfm icns cur qoi sgi ras rgb bw xpm xbm wmf emf fits pcd indd cdr "
    "blp bpg dcx djvu fli flc flif fpx jls jng mng msp"
)
PICTURE_ENDINGS = (
    RAW_ENDINGS
    | _UNMARKED_ENDINGS
    | _endings(
        "heic heif hif avif avifs jxl jp2 jpf jpx j2k psd psb pdf svg eps ai ico exr hdr dds xcf jxr wdp dcm"
    )
)
"""Endings of pictures that have to be converted first."""


class Other(NamedTuple):
    """What a file is, what to do about it, and whether it is a picture at all."""

    name: str
    advice: str
    is_picture: bool = True


RAW = Other("a camera's raw file", "develop it, or export it as JPEG")
_MAGIC: tuple[tuple[int, bytes, Other], ...] = (
    (0, b"II+\0", Other("BigTIFF", "save it as TIFF or JPEG")),
    (0, b"MM\0+", Other("BigTIFF", "save it as TIFF or JPEG")),
    (0, b"8BPS", Other("a Photoshop document", _EXPORT)),
    (0, b"%PDF-", Other("PDF", "export its pages as JPEG")),
    (0, b"%!PS", Other("PostScript", _EXPORT)),
    (0, b"\xc5\xd0\xd3\xc6", Other("EPS", _EXPORT)),
    (0, b"\0\0\0\x0cJXL ", Other("JPEG XL", _CONVERT)),
    (0, b"\xff\x0a", Other("JPEG XL", _CONVERT)),
    (0, b"\0\0\0\x0cjP  ", Other("JPEG 2000", _CONVERT)),
    (0, b"\xffO\xffQ", Other("JPEG 2000", _CONVERT)),
    (0, b"II\xbc\x01", Other("JPEG XR", _CONVERT)),
    (0, b"\0\0\x01\0", Other("an icon", _CONVERT)),
    (0, b"v/1\x01", Other("OpenEXR", _CONVERT)),
    (0, b"gimp xcf", Other("a GIMP document", _EXPORT)),
    (0, b"#?RADIANCE", Other("Radiance HDR", _CONVERT)),
    (0, b"DDS ", Other("a DirectDraw texture", _CONVERT)),
    (128, b"DICM", Other("DICOM", _EXPORT)),
    (0, b"IIU\0", RAW),  # Panasonic
    (0, b"IIRO", RAW),  # Olympus
    (0, b"IIRS", RAW),
    (0, b"MMOR", RAW),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"FOVb", RAW),  # Sigma
    (0, b"\0MRM", RAW),  # Minolta
    (6, b"HEAPCCDR", RAW),  # Canon
    (0, b"\x8aMNG\r\n", Other("MNG", _CONVERT)),
    (0, b"\x8bJNG\r\n", Other("JNG", _CONVERT)),
    (0, b"FLIF", Other("FLIF", _CONVERT)),
    (0, b"BPG\xfb", Other("BPG", _CONVERT)),
    (0, b"AT&TFORM", Other("DjVu", "export its pages as JPEG")),
    (0, b"\xff\xd8\xff\xf7", Other("JPEG-LS", _CONVERT)),
    (0, b"\x06\x06\xed\xf5", Other("an InDesign document", _EXPORT)),
    (8, b"CDR", Other("a CorelDRAW document", _EXPORT)),
    (8, b"AVI ", Other("a video", _FRAME, is_picture=False)),
    (0, b"\x1aE\xdf\xa3", Other("a video", _FRAME, is_picture=False)),
    (0, b"\xd0\xcf\x11\xe0", Other("an Office document", "give the picture itself", is_picture=False)),
    (0, b"Rar!", Other("an archive", "unpack it", is_picture=False)),
    (0, b"7z\xbc\xaf", Other("an archive", "unpack it", is_picture=False)),
    (257, b"ustar", Other("an archive", "unpack it", is_picture=False)),
    (0, b"PK\x03\x04", Other("a ZIP archive", "unpack it", is_picture=False)),
    (0, b"\x1f\x8b", Other("a gzipped file", "unpack it", is_picture=False)),
    (
        0,
        b"version https://git-lfs",
        Other("a Git LFS pointer", "fetch the picture with git lfs pull", is_picture=False),
    ),
)
_BY_BRAND = {
    b"crx ": RAW,  # Canon's CR3
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"),
        Other("HEIC", _CONVERT),
    ),
    **dict.fromkeys((b"avci", b"avcs", b"vvic", b"j2ki"), Other("HEIF", _CONVERT)),
    **dict.fromkeys((b"jp2 ", b"jpx "), Other("JPEG 2000", _CONVERT)),
}
_KEPT = {
    "HEIC": ("heic", "image/heic"),
    "JPEG XL": ("jxl", "image/jxl"),
    "JPEG 2000": ("jp2", "image/jp2"),
    "JPEG XR": ("jxr", "image/jxr"),
    "BigTIFF": ("tif", "image/tiff"),
    "OpenEXR": ("exr", "image/x-exr"),
    "Radiance HDR": ("hdr", "image/vnd.radiance"),
    "a DirectDraw texture": ("dds", "image/vnd-ms.dds"),
    "a Photoshop document": ("psd", "image/vnd.adobe.photoshop"),
    "an icon": ("ico", "image/vnd.microsoft.icon"),
}
"""Pictures, by name, that are stored where they come as outputs: their ending and content type."""
_VIDEO = Other("a video", _FRAME, is_picture=False)
_SVG = re.compile(  # atomic: a file of comments must not be tried in every combination
    rb"\s*+(?:<\?xml(?>.*?>))?+(?>\s*+(?><!--.*?-->|<!DOCTYPE.*?>))*+[\s\]>]*+<(?:\w+:)?svg[\s/>]",
    re.DOTALL | re.IGNORECASE,
)
_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml", re.IGNORECASE)
_BOMS = b"\xef\xbb\xbf"


def other_format(data: bytes) -> Other | None:
    """What a file is that is none of the pictures that WaveSpeedAI takes; None where that is not known."""
    for offset, magic, other in _MAGIC:
        if data.startswith(magic, offset):
            return other
    if brands := file_brands(data):
        return next((_BY_BRAND[brand] for brand in brands if brand in _BY_BRAND), _VIDEO)
    start = data[:4096].removeprefix(_BOMS)
    if _SVG.match(start):
        return Other("SVG", "render it as PNG")
    if is_web_page(start):
        return Other("a web page", "give the picture itself", is_picture=False)
    if _XML.match(start):
        return Other("an XML document", "give the picture itself", is_picture=False)
    return None


def is_web_page(data: bytes) -> bool:
    """Whether a file is HTML, such as a page to sign in on, by its first bytes."""
    return _PAGE.match(data) is not None


def kept_as(data: bytes) -> tuple[str, str] | None:
    """Ending and content type of an output that cannot be decoded here; None if it is no picture."""
    other = other_format(data)
    return _KEPT.get(other.name) if other else None


def by_ending(name: str) -> Other | None:
    """What a file is by its name, if that is a picture whose first bytes are not known here."""
    ending = PurePosixPath(name).suffix.lower()
    return Other(ending[1:].upper(), _CONVERT) if ending in _UNMARKED_ENDINGS else None


def unsupported(other: Other, name: str) -> str:
    """The reason for refusing a file.

    Args:
        other: what it is.
        name: of the source.
    """
    problem = f"{other.name} is not supported" if other.is_picture else f"not an image but {other.name}"
    return f"{problem}: {name}: {other.advice}"


def file_brands(data: bytes) -> list[bytes]:
    """The brands in the head of an ISO media file (HEIC, AVIF, MP4 …), the major one first; else nothing."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 512)
    return [data[8:12], *(data[at : at + 4] for at in range(16, min(end, len(data)), 4))]


# --- camera raw files that begin like a TIFF: DNG, NEF, ARW, PEF, CR2, 3FR … ---

_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 259, 262, 330, 50706
_SENSOR_PHOTOMETRICS = frozenset({32803, 34892})  # colour filter array, linear raw
_SENSOR_COMPRESSIONS = frozenset({32767, 32769, 32770, 34713, 65000, 65535})  # Sony, Epson, Samsung, Nikon …
_MAX_PICTURES = 64
_SIZES = {3: 2, 4: 4, 13: 4}  # of the types that matter, in bytes


def is_raw_tiff(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file: what is decoded is a preview, or a sensor's readings."""
    if data[8:10] == b"CR" or data[8:12] in (b"IIII", b"MMMM"):  # Canon, Phase One
        return True
    previews = []
    for tags in _pictures(data):
        if _DNG_VERSION in tags or not _SENSOR_PHOTOMETRICS.isdisjoint(tags.get(_PHOTOMETRIC, ())):
            return True
        if not _SENSOR_COMPRESSIONS.isdisjoint(tags.get(_COMPRESSION, ())):
            return True
        previews.append(bool(tags.get(_SUBFILE, [0])[0] & 1))
    return len(previews) > 1 and previews[0] and not all(previews)


def _pictures(data: bytes) -> Iterator[dict[int, list[int]]]:
    """The tags of each picture in a TIFF, as far as they are whole numbers; what is broken is left out."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    waiting, seen = deque([number(4, 4)]), set[int]()
    while waiting and len(seen) < _MAX_PICTURES:
        at = waiting.popleft()
        if at in seen or not 8 <= at < len(data) - 2:
            continue
        seen.add(at)
        count = min(number(at, 2), (len(data) - at - 2) // 12)
        tags: dict[int, list[int]] = {}
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, size = number(entry, 2), _SIZES.get(number(entry + 2, 2), 0)
            values = min(number(entry + 4, 4), _MAX_PICTURES)
            start = entry + 8 if size * values <= 4 else number(entry + 8, 4)
            tags[tag] = [number(start + size * index, size) for index in range(values)] if size else []
        waiting.append(number(at + 2 + 12 * count, 4))
        waiting.extend(tags.get(_SUB_IFDS, ()))
        yield {tag: found for tag, found in tags.items() if found or tag == _DNG_VERSION}
