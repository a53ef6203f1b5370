"""Files are named for what they are, and what is no picture for WaveSpeedAI is refused before it is sent."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.left_out import left_out_line
from prefect_wavespeed.batch.manifest.read import read_manifest
from prefect_wavespeed.errors import InvalidRequestError, ManifestError, SourceError
from prefect_wavespeed.quality.formats import CONTENT_TYPES, ENDINGS, sniff, true_name
from prefect_wavespeed.quality.other_formats import PICTURE_ENDINGS, is_raw_tiff
from prefect_wavespeed.quality.verify import verify_source
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.sources.identify import identify
from prefect_wavespeed.sources.publish import Publisher
from prefect_wavespeed.storage.store import Store
from tests.support.cases import many
from tests.support.fake_batch import FakeApi, carry_out
from tests.support.plain_s3 import PlainS3, plain_s3

MANY = many(200)


def picture(kind: str, **options: Any) -> bytes:
    data = BytesIO()
    Image.new("RGB", (32, 24), (90, 60, 30)).save(data, kind, **options)
    return data.getvalue()


def ftyp(*brands: str) -> bytes:
    body = b"ftyp" + brands[0].encode() + bytes(4) + "".join(brands[1:]).encode()
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(40)


# --- what a file is ---

NAMED = [
    (ftyp("heic", "mif1", "heic"), "HEIC is not supported: image x: convert it to JPEG"),
    (ftyp("mif1", "miaf", "heix"), "HEIC is not supported: image x: convert it to JPEG"),
    (
        ftyp("avif", "mif1"),
        "AVIF is not supported: image x: convert it to JPEG, or set RESTYLE_ACCEPT_AVIF=true",
    ),
    (ftyp("mif1", "avif", "miaf"), "AVIF is not supported: image x: "),
    (ftyp("crx ", "isom"), "a camera's raw file is not supported: image x: "),
    (ftyp("isom", "mp42"), "not an image but a video: image x: "),
    (ftyp("qt  "), "not an image but a video: image x: "),
    (b"II+\0\x08\0\0\0", "BigTIFF is not supported: image x: save it as TIFF or JPEG"),
    (b"MM\0+\0\x08\0\0", "BigTIFF is not supported: image x: save it as TIFF or JPEG"),
    (b"8BPS\0\x01", "a Photoshop document is not supported: image x: export it as JPEG"),
    (b"%PDF-1.7\n", "PDF is not supported: image x: export its pages as JPEG"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported: image x: render it as PNG"),
    (
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<!DOCTYPE svg>\n<svg >",
        "SVG is not supported: image x: ",
    ),
    (b"IIU\0\x18\0\0\0", "a camera's raw file is not supported: image x: "),
    (b"IIRO\x08\0\0\0", "a camera's raw file is not supported: image x: "),
    (b"FUJIFILMCCD-RAW 0201", "a camera's raw file is not supported: image x: "),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported: image x: convert it to JPEG"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not supported: image x: convert it to JPEG"),
    (ftyp("mif2", "hevm"), "HEIC is not supported: image x: "),
    (ftyp("avci"), "HEIF is not supported: image x: "),
    (b"\xff\xd8\xff\xf7", "JPEG-LS is not supported: image x: convert it to JPEG"),
    (b"\x1aE\xdf\xa3\x01", "not an image but a video: image x: export a picture of it as JPEG"),
    (b"RIFF\0\0\0\0AVI LIST", "not an image but a video: image x: "),
    (b"<svg:svg xmlns:svg='x'>", "SVG is not supported: image x: "),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied", "not an image but an XML document: image x: "),
    (b"PK\x03\x04", "not an image but a ZIP archive: image x: unpack it"),
    (b"<!DOCTYPE html><p>Log in", "not an image but a web page: image x: give the picture itself"),
    (b"version https://git-lfs.github.com/spec/v1\n", "not an image but a Git LFS pointer: image x: fetch"),
    (b"", "not an image but an empty file: image x: use jpeg, png, webp, gif, bmp, tiff"),
    (b"hello", "not an image: image x: use jpeg, png, webp, gif, bmp, tiff"),
]


@pytest.mark.parametrize(("data", "says"), NAMED, ids=[says.split(":")[0] for _, says in NAMED])
def test_a_file_that_is_not_taken_is_named_for_what_it_is_with_what_to_do(data: bytes, says: str) -> None:
    with pytest.raises(SourceError) as caught:
        verify_source(data, "image x")
    assert caught.value.message.startswith(says)


@pytest.mark.parametrize("piece", [b"<!---->", b"<!DOCTYPE>", b"<?xml>", b" ", b"<!--", b"\n<"])
def test_no_file_keeps_its_examination_busy(piece: bytes) -> None:
    began = time.process_time()
    with pytest.raises(SourceError):
        verify_source(piece * 4096, "image x")
    assert time.process_time() - began < 1


def test_a_picture_whose_bytes_tell_nothing_is_named_by_its_ending() -> None:
    with pytest.raises(SourceError, match=r"^TGA is not supported: image a\.TGA: convert it to JPEG$"):
        verify_source(bytes(100), "image a.TGA")


@pytest.fixture
def avif_accepted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RESTYLE_ACCEPT_AVIF", "true")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("avif_accepted")
def test_avif_is_taken_where_a_setting_says_so() -> None:
    assert verify_source(picture("avif"), "image x").content_type == "image/avif"
    assert true_name("photo", "avif") == "photo.avif"


# --- TIFF, and what poses as one ---


def tiff(pictures: list[dict[int, tuple[int, int]]], *, big_endian: bool, as_subs: bool) -> bytes:
    """A TIFF without pixels: the tags of each picture as type and value; others follow, or are parts."""
    order = ">" if big_endian else "<"
    pictures = [dict(tags) for tags in pictures]
    if as_subs and len(pictures) > 1:
        pictures[0][330] = (4, 0)  # its place is known below
    sizes = [2 + 12 * len(tags) + 4 for tags in pictures]
    starts = [8 + 4 * len(pictures) + sum(sizes[:index]) for index in range(len(pictures))]
    data = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", starts[0])
    data += struct.pack(f"{order}{len(pictures)}I", *starts)
    for index, tags in enumerate(pictures):
        data += struct.pack(order + "H", len(tags))
        for tag, (kind, value) in sorted(tags.items()):
            if tag == 330:
                count, value = len(pictures) - 1, 12 if len(pictures) > 2 else starts[1]
                data += struct.pack(order + "HHII", tag, kind, count, value)
            else:
                packed = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
                data += struct.pack(order + "HHI", tag, kind, 1) + packed
        follows = 0 if as_subs or index + 1 == len(pictures) else starts[index + 1]
        data += struct.pack(order + "I", follows)
    return data


ORDINARY = st.fixed_dictionaries(
    {
        256: st.tuples(st.just(4), st.integers(1, 9000)),
        257: st.tuples(st.just(3), st.integers(1, 9000)),
        259: st.tuples(st.just(3), st.sampled_from([1, 5, 7, 8, 32773])),
        262: st.tuples(st.just(3), st.sampled_from([0, 1, 2, 3, 5, 6, 8])),
    }
)
SENSOR = st.sampled_from(
    [
        {262: (3, 32803)},  # NEF, ARW, CR2, DNG: a colour filter array
        {262: (3, 34892)},  # linear DNG
        {259: (3, 34713)},  # NEF
        {259: (3, 32767)},  # ARW
        {259: (3, 65535)},  # PEF
        {50706: (1, 0x00000401)},  # any DNG
    ]
)


@MANY
@given(
    st.lists(ORDINARY, min_size=1, max_size=4),
    SENSOR,
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_raw_file_that_poses_as_a_tiff_is_refused_wherever_its_sensor_data_are(
    pictures: list[dict[int, Any]],
    sensor: dict[int, Any],
    where: int,
    big_endian: bool,
    as_subs: bool,
    preview: bool,
) -> None:
    if preview:
        pictures[0] = {**pictures[0], 254: (4, 1)}
    plain = tiff(pictures, big_endian=big_endian, as_subs=as_subs)
    assert is_raw_tiff(plain) == (preview and len(pictures) > 1), "its first picture is a preview of another"
    pictures[where % len(pictures)] = {**pictures[where % len(pictures)], **sensor}
    with pytest.raises(SourceError, match=r"^a camera's raw file is not supported: image x: develop it"):
        verify_source(tiff(pictures, big_endian=big_endian, as_subs=as_subs), "image x")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("pages", [1, 3])
def test_an_ordinary_tiff_passes(compression: str, pages: int) -> None:
    more = [Image.new("RGB", (16, 8)) for _ in range(pages - 1)]
    data = picture("tiff", compression=compression, save_all=True, append_images=more)
    assert verify_source(data, "image scan.tif").format == "tiff"
    with pytest.raises(SourceError, match="a camera's raw file"):
        verify_source(data, "image photo.NEF")


@MANY
@given(
    st.sampled_from([picture(kind) for kind in CONTENT_TYPES] + [data for data, _ in NAMED])
    | st.builds(
        tiff, st.lists(ORDINARY, min_size=1, max_size=3), big_endian=st.booleans(), as_subs=st.booleans()
    ),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 300),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow; the package silences them, pytest does not
def test_any_damage_is_refused_in_one_line_without_addresses(
    data: bytes, changes: list[tuple[int, bytes]], cut: int
) -> None:
    broken = bytearray(data)
    for at, change in changes:
        broken[at : at + len(change)] = change
    said = ""
    try:
        verify_source(bytes(broken[: len(broken) - cut]), "image x")
    except SourceError as error:
        said = error.message
    assert "0x" not in said
    assert "BytesIO" not in said
    assert "\n" not in said


# --- the name that is sent ---

NAMES = st.builds(
    lambda stem, ending: stem + ending,
    st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(["", ".", *PICTURE_ENDINGS, *(end.upper() for ends in ENDINGS.values() for end in ends)]),
)


@MANY
@given(NAMES, st.sampled_from(list(CONTENT_TYPES)))
@example("photo", "png")
@example("IMG.HEIC", "jpeg")
@example("a.jfif", "jpeg")
def test_the_name_that_is_sent_bears_the_true_ending(name: str, kind: str) -> None:
    sent = true_name(name, kind)
    allowed = ENDINGS[kind][:2] if kind == "jpeg" else ENDINGS[kind]
    assert sent.lower().endswith(allowed)
    assert sent == name or not name.lower().endswith(allowed) or Path(name).suffix == ""
    assert true_name(sent, kind) == sent


@pytest.mark.parametrize(
    ("name", "kind", "sent"),
    [
        ("photo", "png", "photo.png"),
        ("a.jpg", "png", "a.png"),
        ("a.JFIF", "jpeg", "a.jpg"),
        ("a.JPEG", "jpeg", "a.JPEG"),
        ("holiday 1.5", "webp", "holiday 1.5.webp"),
        ("x.heic", "jpeg", "x.jpg"),
    ],
)
def test_a_name_keeps_what_is_no_wrong_ending(name: str, kind: str, sent: str) -> None:
    assert true_name(name, kind) == sent


class FullUploads:
    """A client whose uploads are refused."""

    base_url = "https://api.example.com"

    def __init__(self) -> None:
        self.names: list[str] = []

    async def upload(self, filename: str, data: bytes, content_type: str) -> str:
        self.names.append(filename)
        raise InvalidRequestError("upload refused")


async def test_an_upload_is_sent_under_its_true_name_and_an_error_names_the_file(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture("png"))
    client = FullUploads()
    source = await identify(str(tmp_path / "photo.jpg"), store)
    with pytest.raises(InvalidRequestError) as caught:
        await Publisher(cast("WaveSpeedClient", client), store).url(source)
    assert client.names == ["photo.png"]
    assert caught.value.message == f"upload refused: upload of {(tmp_path / 'photo.jpg').as_uri()}"


# --- what is left out below a prefix ---


@pytest.fixture(scope="module")
def server() -> Iterator[PlainS3]:
    with plain_s3() as running:
        yield running


@pytest.fixture(scope="module")
def store(server: PlainS3, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return server.read_by(tmp_path_factory.mktemp("out"))


async def listed(manifest: str, store: Store) -> tuple[list[str], Counter[str]]:
    left_out: Counter[str] = Counter()
    pages = read_manifest(manifest, ReduxParams(), store, left_out=left_out)
    return [str(row.image) async for page in pages for row in page], left_out


@many(40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b.c", "é ü", ".hidden"]),
            st.sampled_from(
                ["", ".heic", ".HEIC", ".txt", ".jfif", ".jpe", ".JPG", ".avif", ".d ng", ".x\x1b[31m"]
            ),
            st.sampled_from(["", "", "/", "_$folder$"]),
        ),
        max_size=10,
    ),
    st.integers(1, 4),
)
def test_every_object_below_a_prefix_is_a_row_a_folder_or_counted(
    server: PlainS3, store: Store, parts: list[tuple[str, str, str]], page: int
) -> None:
    server.reset()
    names = {
        f"in/{number}/{stem}{ending}{mark}": (ending, mark)
        for number, (stem, ending, mark) in enumerate(parts)
    }
    server.keys, server.page = ["in/", "in/good.png", *names], page
    images, left_out = asyncio.run(listed(f"s3://{server.bucket}/in/", store))
    taken = {".jfif", ".jpe", ".jpg"}
    objects = [ending.lower() for ending, mark in names.values() if not mark]
    assert len(images) == 1 + sum(ending in taken for ending in objects)
    assert left_out.total() == len(objects) + 1 - len(images)
    for ending in (".heic", ".txt", ".avif"):
        assert left_out[ending] == objects.count(ending)
    if left_out:
        line = left_out_line(left_out)
        assert line.isprintable()
        assert line.startswith(f"{left_out.total()} object{'' if left_out.total() == 1 else 's'} left out: ")


async def test_what_is_left_out_is_in_the_summary(
    server: PlainS3, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reset()
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    server.keys = ["in/1.jpg", "in/2.heic", "in/3", "in/4.heic"]
    carried = await carry_out(FakeApi(), tmp_path, f"s3://{server.bucket}/in/")
    assert carried.statuses == ["stored"]
    assert carried.summary.left_out == {".heic": 2, "no ending": 1}


def test_what_is_left_out_is_said_in_one_line_with_what_to_do_about_pictures() -> None:
    counts = {".heic": 2, ".txt": 1, "no ending": 1200, ".dng": 1}
    assert left_out_line(counts) == (
        "1,204 objects left out: 1,200 with no ending, 2 .heic, 1 .txt, 1 .dng; convert .heic, .dng to JPEG"
    )


async def test_an_outputs_own_records_are_not_counted_beside_its_sources(
    server: PlainS3, store: Store
) -> None:
    server.reset()
    own = server.store("in")
    server.keys = ["in/a.png", "in/open/k/1.claim.json", "in/runs/dt=1/x/summary.json", "in/notes.json"]
    images, left_out = await listed(f"s3://{server.bucket}/in/", own)
    assert images == [f"s3://{server.bucket}/in/a.png"]
    assert left_out == {".json": 1}


async def test_where_nothing_is_an_image_what_there_is_is_said(server: PlainS3, store: Store) -> None:
    server.reset()
    server.keys = ["in/IMG_1.HEIC", "in/IMG_2.HEIC", "in/notes"]
    with pytest.raises(ManifestError) as caught:
        await listed(f"s3://{server.bucket}/in/", store)
    assert "no images below it (3 objects left out: 2 .heic, 1 with no ending; convert .heic to JPEG)" in (
        caught.value.message
    )


@pytest.mark.usefixtures("avif_accepted")
async def test_avif_below_a_prefix_is_taken_where_a_setting_says_so(server: PlainS3, store: Store) -> None:
    server.reset()
    server.keys = ["in/a.avif"]
    images, left_out = await listed(f"s3://{server.bucket}/in/", store)
    assert len(images) == 1
    assert not left_out


@pytest.mark.parametrize("kind", [kind for kind in CONTENT_TYPES if kind != "avif"])
def test_what_is_taken_is_recognized(kind: str) -> None:
    assert sniff(picture(kind)) == verify_source(picture(kind), "image x").format == kind
