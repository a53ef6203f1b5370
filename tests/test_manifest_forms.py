"""Manifests as people have them: the same rows, whatever wrote the file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.read import read_manifest
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.batch.run import bad_rows_error
from prefect_wavespeed.errors import ManifestError
from prefect_wavespeed.job import Job
from prefect_wavespeed.sources.urls import url_source
from prefect_wavespeed.storage.open_store import directory_store
from prefect_wavespeed.storage.store import Store
from tests.support.cases import many

MANY = many(100)
PLAIN = [("a.jpg", "1", 2.7), ("b/é ü.png", "2", 20.0), ("https://example.com/c.jpg?x=1,2", "x y", 3.5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


async def read(path: Path, store: Store) -> list[Row | BadRow]:
    return [row async for batch in read_manifest(str(path), ReduxParams(), store) for row in batch]


def facts(rows: list[Row | BadRow]) -> list[tuple[str, str | None, float]]:
    assert not [row for row in rows if isinstance(row, BadRow)], rows
    return [(row.image, row.id, row.params.guidance_scale) for row in rows if isinstance(row, Row)]


# --- text files ---

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
AROUND = st.sampled_from(["", " ", "\xa0", "\u202f ", "\u200b", "\u3000", "\ufeff ", " \xa0\u200e "])
NAMELESS = st.sampled_from(["", " ", "\xa0", "Unnamed: 0"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """PLAIN as a CSV file that some program wrote and some person has had in their hands."""
    separator, end = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    extra, before = draw(st.integers(0, 3)), draw(st.booleans())
    comma = separator != "," and draw(st.booleans())
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    if draw(st.booleans()):
        text.write(f"sep={separator}{end}")
    if draw(st.booleans()):
        writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)

    def write(cells: list[str], filler: str) -> None:
        padded = [draw(AROUND) + cell + draw(AROUND) for cell in cells]
        writer.writerow([*([filler] if before else []), *padded, *[""] * extra])

    write(["image", "id", "guidance_scale"], draw(NAMELESS))
    for number, (image, row_id, scale) in enumerate(PLAIN):
        write([image, row_id, f"{scale:g}".replace(".", ",") if comma else f"{scale:g}"], str(number))
        if draw(st.booleans()):
            text.write(draw(st.sampled_from(["", separator * 2, " "])) + end)
    return text.getvalue().encode(draw(st.sampled_from(ENCODINGS)))


@MANY
@given(texts(), st.sampled_from(["a.csv", "a.tsv"]))
def test_a_csv_file_is_the_same_rows_whatever_wrote_it(
    store: Store, tmp_path: Path, data: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(data)
    assert facts(asyncio.run(read(tmp_path / name, store))) == PLAIN


@MANY
@given(
    st.lists(st.tuples(AROUND, AROUND), min_size=3, max_size=3),
    st.sampled_from(["\n", "\r\n", "\r", "\n \n"]),
    st.sampled_from(ENCODINGS),
    st.dictionaries(NAMELESS, st.integers() | st.text(max_size=3), max_size=2),
)
def test_a_jsonl_file_is_the_same_rows_whatever_wrote_it(
    store: Store,
    tmp_path: Path,
    around: list[tuple[str, str]],
    end: str,
    encoding: str,
    more: dict[str, Any],
) -> None:
    rows = [
        {**more, "image": before + image + after, "id": row_id + after, "guidance_scale": scale}
        for (image, row_id, scale), (before, after) in zip(PLAIN, around, strict=True)
    ]
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
    assert facts(asyncio.run(read(tmp_path / "a.jsonl", store))) == PLAIN


# --- a bad line is one bad row ---

BAD_LINES = st.sampled_from(
    [
        b"\xe9t\xe9.jpg,1",
        b"\xff\xfe",
        b'"a"b,1',
        b'x"y"z,1,2,3',
        b"a," + b"x" * 200_000,
        b"x" * (1 << 20),
        b"\0,1",
    ]
)


@many(40)
@given(st.lists(BAD_LINES, max_size=4), st.sampled_from(["csv", "jsonl"]))
@example([b"x" * (3 << 20)], "jsonl")
@example([b"x" * (3 << 20)], "csv")
def test_a_line_that_cannot_be_used_never_stops_the_others(
    store: Store, tmp_path: Path, bad: list[bytes], kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    good = b"good.jpg,1" if kind == "csv" else b'{"image": "good.jpg", "id": "1"}'
    header = [b"image,id"] if kind == "csv" else []
    path.write_bytes(b"\n".join([*header, good, *bad, good, b""]))
    rows = asyncio.run(read(path, store))
    assert [row.image for row in rows if isinstance(row, Row)] == ["good.jpg"] * 2
    assert [row.number for row in rows] == list(range(1 + len(header), 3 + len(header) + len(bad)))
    assert len(rows) == 2 + len(bad)


@many(100)
@given(
    st.binary(max_size=200),
    st.sampled_from(["", "image\n", '{"image": "a"}\n']),
    st.sampled_from(["csv", "jsonl"]),
)
def test_any_bytes_are_rows_or_one_clear_error(
    store: Store, tmp_path: Path, data: bytes, start: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(start.encode() + data)
    message = ""
    try:
        rows = asyncio.run(read(path, store))
    except ManifestError as error:
        rows, message = [], error.message
    assert rows or message.startswith(f"manifest {path}: ")
    assert not [row for row in rows if isinstance(row, BadRow) and not row.reason]
    assert "\n" not in message


# --- numbers ---

SCALES = st.decimals(1, 20, places=3).map(lambda number: number.normalize())


def key(row: Row | BadRow) -> str:
    assert isinstance(row, Row), row
    return Job(source=url_source(row.image), params=row.params).key


@many(20)
@given(SCALES, st.integers(1, 4))
@example(Decimal("2.7"), 4)
def test_a_number_is_the_one_that_is_shown_and_the_same_job_in_every_kind_of_column(
    store: Store, tmp_path: Path, scale: Decimal, images: int
) -> None:
    (tmp_path / "a.csv").write_text(
        f"image,guidance_scale,num_images\nhttps://e.com/a.jpg,{scale:f},{images}\n"
    )
    (expected,) = asyncio.run(read(tmp_path / "a.csv", store))
    types = [pa.float64(), pa.float32(), pa.decimal128(10, 3), pa.decimal256(40, 5)]
    for scale_type, images_type in zip(
        types, [pa.int8(), pa.float32(), pa.decimal128(3, 0), pa.decimal128(5, 2)], strict=True
    ):
        given_scale = scale if pa.types.is_decimal(scale_type) else float(scale)
        given_images = Decimal(images) if pa.types.is_decimal(images_type) else images
        columns = {
            "image": ["https://e.com/a.jpg"],
            "guidance_scale": pa.array([given_scale], scale_type),
            "num_images": pa.array([given_images], images_type),
        }
        for table in (pa.table(columns), dictionaries(columns)):
            pq.write_table(table, tmp_path / "a.parquet")
            (row,) = asyncio.run(read(tmp_path / "a.parquet", store))
            assert key(row) == key(expected), (scale_type, images_type)
    half = struct.unpack("e", struct.pack("e", float(scale)))[0]
    pq.write_table(
        pa.table({"image": ["a"], "guidance_scale": pa.array([half], pa.float32()).cast(pa.float16())}),
        tmp_path / "a.parquet",
    )
    (row,) = asyncio.run(read(tmp_path / "a.parquet", store))
    assert isinstance(row, Row)
    assert len(str(row.params.guidance_scale)) <= 6


def dictionaries(columns: dict[str, Any]) -> pa.Table:
    """The columns as categories, as pandas has them."""
    return pa.table(
        {
            name: array.dictionary_encode() if isinstance(array, pa.Array) else array
            for name, array in columns.items()
        }
    )


async def test_numbers_that_are_no_whole_ones_or_nothing_are_as_in_any_other_file(
    store: Store, tmp_path: Path
) -> None:
    columns = {
        "image": ["a", "b", "c"],
        "id": pa.array([Decimal("7.00"), None, Decimal("1.5")], pa.decimal128(5, 2)),
        "num_images": pa.array([Decimal("1.50"), None, Decimal("2.00")], pa.decimal128(5, 2)),
        "guidance_scale": pa.array([None, float("nan"), 2.7], pa.float32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second, third = await read(tmp_path / "a.parquet", store)
    assert (first.id, third.id) == ("7", "1.5")
    assert isinstance(first, BadRow)
    assert first.reason == "num_images 1.5: give a whole number"
    assert isinstance(second, Row)
    assert second.params == ReduxParams()
    assert isinstance(third, Row)
    assert (third.params.num_images, third.params.guidance_scale) == (2, 2.7)


# --- what is said ---


async def test_the_columns_are_listed_once_however_many_rows_have_others(
    store: Store, tmp_path: Path
) -> None:
    row = {"image": "a.jpg", "sku": 1, "title": "Mug", "price": 2}
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(row)] * 7))
    rows = await read(tmp_path / "a.jsonl", store)
    bad = [row for row in rows if isinstance(row, BadRow)]
    message = bad_rows_error(bad, len(bad), "7", skippable=False).message
    assert message.count("the columns are image, id") == 1
    assert message.count('unknown columns "sku", "title", "price": columns=id=sku if') == 5


@pytest.mark.parametrize("kind", ["csv", "parquet"])
async def test_columns_without_a_name_are_ignored(kind: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text(",image,,Unnamed: 0\n0,ok.png,x,5\n")
    else:
        pq.write_table(pa.table({"": [0], "image": ["ok.png"], "Unnamed: 0": [5]}), path)
    (row,) = await read(path, store)
    assert row == Row(row.number, "ok.png", ReduxParams())


async def test_a_pipe_is_no_manifest(store: Store) -> None:
    with pytest.raises(ManifestError, match="not a regular file"):
        await read(Path("/dev/null"), store)
