"""A team's own lists of images: with columns of its own, or a folder of pictures."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from prefect_wavespeed.api.models import NO_PROMPT, ReduxParams
from prefect_wavespeed.batch.manifest.carried import Cell, carried_value
from prefect_wavespeed.batch.manifest.read import read_manifest
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.errors import ManifestError
from prefect_wavespeed.storage.open_store import directory_store
from prefect_wavespeed.storage.store import Store
from tests.support.fake_batch import FakeApi, carry_out

URL = "https://example.com/{}.jpg"
SIGNED = "https://example.com/2.jpg?X-Amz-Signature=secret"
OPTIONS = BatchOptions(
    columns="image=image_url, id=sku",
    carry="sku,category,price,stock,new,added,origin",
    ignore_columns="notes",
)
CATALOGUE: list[dict[str, Any]] = [
    {
        "image_url": URL.format(1),
        "sku": "007",
        "category": "Mugs, blue",
        "price": 19.9,
        "stock": 3,
        "new": True,
        "added": "2026-05-01",
        "origin": None,
        "notes": "x" * 9_000,
        "steps": 12,
        "format": "png",
    },
    {
        "image_url": URL.format(2),
        "sku": "12",
        "category": None,
        "price": 5,
        "stock": None,
        "new": False,
        "added": None,
        "origin": SIGNED,
        "notes": None,
        "steps": None,
        "format": None,
    },
]


def as_table(rows: list[dict[str, Any]], separator: str) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    data = io.BytesIO()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["price"] = [None if price is None else float(price) for price in columns["price"]]
    columns["added"] = [day and date.fromisoformat(day) for day in columns["added"]]
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "json": lambda rows: json.dumps(rows, indent=2).encode(),
    "csv": lambda rows: as_table(rows, ","),
    "tsv": lambda rows: as_table(rows, "\t"),
    "parquet": as_parquet,
}


async def rows_of(manifest: Path | str, store: Store, options: BatchOptions = OPTIONS) -> list[Row | BadRow]:
    pages = read_manifest(str(manifest), ReduxParams(), store, columns=options.manifest_columns)
    return [row async for page in pages for row in page]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


@pytest.mark.parametrize("form", FORMS)
async def test_a_catalogue_is_restyled_as_it_is_and_its_own_columns_are_in_the_report(
    form: str, tmp_path: Path
) -> None:
    manifest = tmp_path / f"catalogue.{form}"
    manifest.write_bytes(FORMS[form](CATALOGUE))
    api = FakeApi()
    carried = await carry_out(api, tmp_path / "out", str(manifest), OPTIONS)
    first, second = carried.rows
    assert (first.id, first.image, second.id) == ("007", URL.format(1), "12")
    assert first.carried == {
        "sku": "007",
        "category": "Mugs, blue",
        "price": 19.9,
        "stock": 3,
        "new": True,
        "added": "2026-05-01",
    }
    assert second.carried == {"sku": "12", "price": 5.0, "new": False, "origin": URL.format(2)}
    assert [type(row.carried["price"]) for row in carried.rows] == [float, float]
    types = carried.summary.carried
    assert types == {
        "sku": "string",
        "category": "string",
        "price": "number",
        "stock": "integer",
        "new": "boolean",
        "added": "string",
        "origin": "string",
    }
    table = pq.read_table(carried.folder / "report.parquet")
    assert table.column("carried.stock").to_pylist() == [3, None]
    rows = await rows_of(manifest, directory_store(tmp_path / "out"))
    assert [row.params for row in rows if isinstance(row, Row)] == [
        ReduxParams(num_inference_steps=12, output_format="png"),
        ReduxParams(),
    ]


@pytest.mark.parametrize(
    ("value", "carried"),
    [
        (Cell(SIGNED), URL.format(2)),
        ({"u": SIGNED, SIGNED: 1}, f'{{"u": "{URL.format(2)}", "{URL.format(2)}": 1}}'),
        (['say "https://b/k?sig=secret"\n', None, "é\\"], '["say \\"https://b/k\\"\\n", null, "é\\\\"]'),
        (Cell('["https:\\/\\/b\\/k?sig=secret"]'), '["https://b/k"]'),
        ("(see https://b/k?sig=secret)", "(see https://b/k)"),
        ("https://a/k?sig=secret,https://b/k?w=3&sig=secret", "https://a/k,https://b/k?w=3"),
        ('<a href="https://u:secret@b/k?sig=secret">', '<a href="https://b/k">'),
        ("https://[b/k?sig=secret", "https://[b/k?…"),
        ("7 > 5? https:// a? http", "7 > 5? https:// a? http"),
    ],
)
def test_no_url_is_carried_with_its_signature_wherever_in_a_value_it_is(value: object, carried: str) -> None:
    assert carried_value(value) == carried


async def test_what_is_carried_is_no_part_of_the_job_and_rows_that_fail_carry_it_too(tmp_path: Path) -> None:
    manifest = tmp_path / "a.jsonl"
    rows = [
        {"image": URL.format(1), "sku": "a"},
        {"image": URL.format(1), "sku": 7, "tags": ["x", {"y": "\ud800"}], "text": "é" * 2_000},
        {"image": "missing.jpg", "sku": "c"},
        {"image": URL.format(2), "num_images": 9, "sku": "d"},
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    options = BatchOptions(carry="*", on_bad_row="skip", max_failed=1)
    carried = await carry_out(FakeApi(), tmp_path / "out", str(manifest), options)
    assert carried.summary.jobs == 1
    assert [row.carried["sku"] for row in carried.rows] == ["a", "7", "c", "d"], "one type in a column"
    assert carried.statuses == ["stored", "stored", "failed", "invalid"]
    assert carried.rows[1].carried["tags"] == '["x", {"y": "?"}]'
    assert carried.rows[1].carried["text"] == "é" * 999 + "…"


@pytest.mark.parametrize(
    ("options", "columns", "says"),
    [
        ({"carry": "*"}, "image,imgae", "unknown column \"imgae\" (image?): carry='*,imgae' takes it into"),
        ({"carry": "*"}, "image,Steps", 'unknown column "Steps": did you mean steps? Rename it, or columns='),
        ({}, "imgae,sku", '"imgae", "sku": did you mean image? Rename it, or columns=image=imgae; carry=sku'),
        ({}, "image_url,sku,notes", ": columns=image=image_url,id=sku if that is what it holds; carry="),
        ({}, "image,id,image_url,sku", '"image_url", "sku": carry=image_url,sku takes them'),
        ({"carry": "*"}, "image,prompt", f'unknown column "prompt": {NO_PROMPT}'),
        ({"carry": "sku"}, "image,sku,size_cm", 'unknown column "size_cm": carry=sku,size_cm takes'),
        ({"carry": "skuu"}, "image", "no column 'skuu': its columns are image"),
        ({"columns": "image=url"}, "image", "no column 'url': its columns are image"),
        ({"columns": "id=sku"}, "image", "no column 'sku': its columns are image"),
        ({}, "image,steps,num_inference_steps", 'columns "steps" and "num_inference_steps" mean the same'),
        ({"carry": "sku,imgae", "ignore_columns": "notes"}, "image,sku,imgae,notes", None),
        ({"carry": "*,prompt"}, "image,sku,title,prompt,date", None),
        ({"columns": "image=url,id=sku", "carry": '"a, b",id'}, 'url,sku,id,"a, b"', None),
        ({"columns": "steps=my_steps", "ignore_columns": "steps"}, "image,my_steps,steps", None),
    ],
)
async def test_a_column_is_known_or_named_or_refused(
    options: dict[str, str], columns: str, says: str | None, store: Store, tmp_path: Path
) -> None:
    manifest = tmp_path / "a.csv"
    manifest.write_text(f"{columns}\n{','.join('5' for _ in next(csv.reader([columns])))}\n")
    reading = rows_of(manifest, store, BatchOptions(**options))  # type: ignore[arg-type]
    if says is None:
        (row,) = await reading
        assert isinstance(row, Row)
    else:
        with pytest.raises(ManifestError) as caught:
            await reading
        assert says in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("imgae=x", 'there is no column "imgae"; the columns are image, id'),
        ("image", '"image": give pairs such as image=image_url,id=sku'),
        ("id=a,id=b", '"id=b": give each column once'),
        ("id=a,image=a", '"image=a": give each column once'),
    ],
)
def test_an_option_that_cannot_be_read_is_refused_at_once(columns: str, says: str) -> None:
    with pytest.raises(ValidationError, match=f"Value error, {says}"):
        BatchOptions(columns=columns)


async def test_more_columns_than_a_table_should_have_are_refused(tmp_path: Path) -> None:
    row = {"image": URL.format(1)} | {f"column {number}": number for number in range(51)}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ManifestError, match="over 50 columns to carry: name those that you need: carry="):
        await carry_out(FakeApi(), tmp_path / "out", str(tmp_path / "a.jsonl"), BatchOptions(carry="*"))
    assert not (tmp_path / "out").exists()


async def test_bytes_are_not_carried(store: Store, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a"], "thumb": [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ManifestError, match="bytes cannot be carried: leave it out with ignore_columns=thumb"
    ):
        await rows_of(tmp_path / "a.parquet", store, BatchOptions(carry="*"))
    (row,) = await rows_of(tmp_path / "a.parquet", store, BatchOptions(ignore_columns="thumb"))
    assert isinstance(row, Row)


# --- a folder ---

PICTURES = (
    "b.JPG",
    "a.png",
    "deep/c.webp",
    "deep/d.heic",
    "notes.txt",
    ".hidden.jpg",
    ".git/e.jpg",
    "[f].jpg",
)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, and with what outputs of this project stored in it; the working directory."""
    job, other = ("images/cat-0123456789abcdef", "images/dog-0123456789abcdef")
    stored = ("out/images/x/1.jpeg", f"old/{job}/1.jpeg", f"old/{job}/metadata.json")
    for name in (*PICTURES, *stored, f"old/quarantine/{job[7:]}/2.jpeg", f"{other}/1.jpeg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        (".", ["[f].jpg", "a.png", "b.JPG", "deep/c.webp", "images/dog-0123456789abcdef/1.jpeg"]),
        ("../photos/deep/", ["deep/c.webp"]),
        ("*.jp*", ["[f].jpg"]),
        ("[ab].*", ["a.png", "b.JPG"]),
        ("**/*.webp", ["deep/c.webp"]),
        ("old/images/", ["old/images/cat-0123456789abcdef/1.jpeg"]),
    ],
)
async def test_every_picture_in_a_folder_or_that_matches_a_pattern_is_a_row(
    manifest: str, found: list[str], photos: Path
) -> None:
    rows = await rows_of(manifest, directory_store(Path("out")), BatchOptions())
    assert [os.path.relpath(row.image or "", photos) for row in rows] == found
    assert [row.number for row in rows] == list(range(1, len(found) + 1))


async def test_what_is_in_a_folder_and_is_no_picture_is_counted(photos: Path) -> None:
    left_out: Counter[str] = Counter()
    reading = read_manifest(str(photos), ReduxParams(), directory_store(photos / "out"), left_out=left_out)
    assert [page async for page in reading]
    assert left_out == {".heic": 1, ".txt": 1, ".json": 1}


@pytest.mark.parametrize(
    ("manifest", "options", "says"),
    [
        ("*.txt", "", r"manifest \*\.txt: no images match it \(1 object left out: 1 \.txt\)$"),
        ("*.gif", "", r"manifest \*\.gif: no images match it$"),
        ("old", "", "no images below it .*except those that this project stored: to restyle these, name"),
        ("out", "", "no images below it except those that this project stored"),
        (
            ".",
            "id=sku",
            "a folder or a pattern has no columns: leave out columns=id=sku, carry=sku,x, ignore",
        ),
        ("s3://b/a/", "id=sku", "a prefix has no columns: leave out columns=id=sku"),
        (["a.jpg"], "id=sku", "a list of images has no columns: leave out columns=id=sku"),
    ],
)
async def test_a_list_of_nothing_or_with_options_for_a_table_is_refused(
    manifest: str | list[str], options: str, says: str, photos: Path
) -> None:
    given = BatchOptions(columns=options, carry="x,sku", ignore_columns="y") if options else BatchOptions()
    reading = read_manifest(
        manifest, ReduxParams(), directory_store(photos / "out"), columns=given.manifest_columns
    )
    with pytest.raises(ManifestError, match=says):
        assert not [page async for page in reading]
