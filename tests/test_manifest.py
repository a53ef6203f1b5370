"""The images of a batch: where a list of them can be, and what is wrong with one that is refused."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import ssl
import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_wavespeed.api.models import NO_PROMPT, ReduxParams
from prefect_wavespeed.batch.manifest import read as reading
from prefect_wavespeed.batch.manifest.columns import Columns
from prefect_wavespeed.batch.manifest.read import read_manifest, safe_name
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.errors import ConfigurationError, ManifestError, RestyleError
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.certificates import write_certificates
from tests.support.raw_server import RawServer, cut, http
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

DEFAULTS = ReduxParams(size="512*512")
IMAGES = ["https://example.com/a.jpg?X-Amz-Signature=secret", "s3://bucket/b.png", "pictures/c.webp"]
KNOWN = (
    "the columns are image, id, variant, size, num_inference_steps or steps, guidance_scale or guidance, "
    "num_images, seed, output_format or format"
)
KINDS = (
    "give a file that ends in .jsonl, .ndjson, .json, .csv, .tsv, .parquet, "
    "or a folder, a pattern or s3://bucket/prefix/ for every image in it"
)
LEAVE_OUT = "ignore_columns=num_inference_steps"
SLIP = 'unknown column "imgae": did you mean image? Rename it, or columns=image=imgae'
SKU = "columns=id=sku if that is what it holds"
NAME_IT = "name it with columns=image=…"


def asides(names: str, them: str = "them") -> str:
    return f"carry={names} takes {them} into the report, ignore_columns={names} leaves {them} out"


ROWS: list[dict[str, Any]] = [
    {"image": IMAGES[0], "id": "one", "seed": 7},
    {"image": IMAGES[1], "id": 2, "variant": 3, "guidance_scale": 5, "enable_sync_mode": True},
    {"image": IMAGES[2]},
]
EXPECTED = [
    (IMAGES[0], "one", 0, ReduxParams(size="512*512", seed=7)),
    (IMAGES[1], "2", 3, ReduxParams(size="512*512", guidance_scale=5, enable_sync_mode=True)),
    (IMAGES[2], None, 0, DEFAULTS),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


@pytest.fixture
def on_s3(moto: S3Server) -> Store:
    return s3_store(moto.bucket, uuid.uuid4().hex, moto.session(), endpoint_url=moto.endpoint)


async def read(
    manifest: str | Path | Sequence[str], store: Store, *, allow_local: bool = True
) -> list[Row | BadRow]:
    named = str(manifest) if isinstance(manifest, Path) else manifest
    pages = read_manifest(named, DEFAULTS, store, allow_local=allow_local)
    return [row async for batch in pages for row in batch]


async def bad(manifest: str | Path | Sequence[str], store: Store) -> list[tuple[int, str]]:
    return [(row.number, row.reason) for row in await read(manifest, store) if isinstance(row, BadRow)]


async def refused(manifest: str | Path | Sequence[str], store: Store) -> str:
    with pytest.raises(ManifestError) as caught:
        await read(manifest, store)
    assert not caught.value.retryable
    return str(caught.value)


def facts(rows: Iterable[Row | BadRow]) -> list[tuple[str, str | None, int, ReduxParams]]:
    good = [row for row in rows if isinstance(row, Row)]
    return [(row.image, row.id, row.variant, row.params) for row in good]


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def parquet(columns: dict[str, Any]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


PARQUET = parquet(
    {
        "image": IMAGES,
        "id": ["one", "2", ""],
        "variant": pa.array([None, 3, None], pa.float64()),  # as pandas has it
        "seed": pa.array([7, None, None], pa.int64()),
        "guidance_scale": pa.array([None, 5, float("nan")], pa.float64()),
        "enable_sync_mode": pa.array([None, True, None]),
        "output_format": pa.nulls(3),
    }
)
FILES: dict[str, tuple[bytes, list[int]]] = {
    "a.jsonl": (jsonl(*ROWS), [1, 2, 3]),
    "a.NDJSON": (jsonl(*ROWS), [1, 2, 3]),
    "a.jsonl.gz": (gzip.compress(jsonl(*ROWS), mtime=0), [1, 2, 3]),
    "a.csv": (as_csv(ROWS), [2, 3, 4]),
    "from excel.csv": (b"\xef\xbb\xbf" + as_csv(ROWS), [2, 3, 4]),
    "a.csv.gz": (gzip.compress(as_csv(ROWS), mtime=0), [2, 3, 4]),
    "a.parquet": (PARQUET, [1, 2, 3]),
}


# --- where a list can be ---


@pytest.mark.parametrize("name", FILES)
async def test_a_file_is_read_wherever_it_is(
    name: str, store: Store, on_s3: Store, moto: S3Server, tmp_path: Path
) -> None:
    data, numbers = FILES[name]
    (tmp_path / name).write_bytes(data)
    key = f"{uuid.uuid4().hex}/{name}"
    moto.client().put_object(Bucket=moto.bucket, Key=key, Body=data)
    async with RawServer(http(200, data)) as server:
        url = f"{server.url}/lists/{name.replace(' ', '%20')}?X-Amz-Signature=secret"
        for manifest, output in (
            (str(tmp_path / name), store),
            (f"s3://{moto.bucket}/{key}", on_s3),
            (url, store),
        ):
            rows = await read(manifest, output)
            assert facts(rows) == EXPECTED
            assert [row.number for row in rows] == numbers
        assert b"authorization" not in server.requests[0].lower()


async def test_s3_is_read_with_the_ambient_credentials_when_the_output_is_a_directory(
    store: Store, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    moto.client().put_object(Bucket=moto.bucket, Key="ambient.jsonl", Body=jsonl(*ROWS))
    assert facts(await read(f"s3://{moto.bucket}/ambient.jsonl", store)) == EXPECTED


async def test_a_list_of_images_is_numbered_from_1(store: Store) -> None:
    rows = await read([*IMAGES, "ftp://example.com/d.jpg"], store)
    assert facts(rows) == [(image, None, 0, DEFAULTS) for image in IMAGES]
    assert rows[3] == BadRow(
        4,
        "unsupported scheme ftp://: image ftp://example.com/d.jpg: use https://, s3:// or a file path",
        image="ftp://example.com/d.jpg",
    )


async def test_a_relative_path_is_relative_to_the_working_directory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(*ROWS))
    monkeypatch.chdir(tmp_path)
    assert facts(await read("a.jsonl", store)) == EXPECTED


def fill(server: S3Server, *keys: str) -> str:
    """Put objects below a new prefix of the bucket, and return the prefix."""
    root = uuid.uuid4().hex
    for key in keys:
        server.client().put_object(Bucket=server.bucket, Key=f"{root}/{key}", Body=b"x")
    return root


SOURCES = ("in/a.jpg", "in/deep/b #1.PNG", "in/é.tiff", "in/list.csv", "in/jpg", "inside.jpg")


def output_at(server: S3Server, prefix: str) -> Store:
    return s3_store(server.bucket, prefix, server.session(), endpoint_url=server.endpoint)


@pytest.mark.parametrize(
    ("output", "made"),
    [
        ("{}/out", "out/images/a-1/1.jpeg"),
        ("{}/in/out", "in/out/thumbs/1.jpeg"),
        ("{}/in", "in/images/a-1/1.jpeg"),
        ("{}", "in/c/d.jpg"),
    ],
)
async def test_every_image_below_a_prefix_but_our_own_is_a_row(
    output: str, made: str, moto: S3Server
) -> None:
    root = fill(moto, *SOURCES, made)
    rows = await read(f"s3://{moto.bucket}/{root}/in/", output_at(moto, output.format(root)))
    found = [image.removeprefix(f"s3://{moto.bucket}/{root}/") for image, *_ in facts(rows)]
    expected = {"in/a.jpg", "in/deep/b #1.PNG", "in/é.tiff"} | ({made} if "/c/" in made else set())
    assert sorted(found) == sorted(expected)
    assert [row.number for row in rows] == list(range(1, len(found) + 1))


async def test_what_was_stored_at_the_bucket_itself_is_left_out_too(moto: S3Server) -> None:
    server = S3Server(moto.endpoint, bucket=f"b{uuid.uuid4().hex}")
    server.client().create_bucket(Bucket=server.bucket)
    for key in ("a.jpg", "images/a-1/1.jpeg", "quarantine/a-1/2.jpeg"):
        server.client().put_object(Bucket=server.bucket, Key=key, Body=b"x")
    for manifest in (f"s3://{server.bucket}", f"s3://{server.bucket}/"):
        rows = await read(manifest, output_at(server, ""))
        assert [row.image for row in rows] == [f"s3://{server.bucket}/a.jpg"]


async def test_what_another_output_stored_below_the_prefix_is_left_out_but_not_what_only_lies_like_it(
    moto: S3Server,
) -> None:
    theirs, like_it = (f"images/cat-{digits}/1.jpeg" for digits in ("0123456789abcdef", "fedcba9876543210"))
    root = fill(moto, "in/a.jpg", f"in/{like_it}")
    marks = {"job-key": "k", "prediction-id": "p", "seed": "1"}
    moto.client().put_object(Bucket=moto.bucket, Key=f"{root}/in/other/{theirs}", Body=b"x", Metadata=marks)
    rows = await read(f"s3://{moto.bucket}/{root}/in/", output_at(moto, f"{root}/out"))
    found = [image.removeprefix(f"s3://{moto.bucket}/{root}/") for image, *_ in facts(rows)]
    assert found == ["in/a.jpg", f"in/{like_it}"]


async def test_a_manifest_from_elsewhere_may_name_files_of_this_machine_only_where_that_is_allowed(
    on_s3: Store, moto: S3Server, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_bytes(jsonl(*ROWS))
    moto.client().put_object(Bucket=moto.bucket, Key="theirs.jsonl", Body=own.read_bytes())
    theirs = f"s3://{moto.bucket}/theirs.jsonl"
    (number, reason), *more = [
        (row.number, row.reason)
        for row in await read(theirs, on_s3, allow_local=False)
        if isinstance(row, BadRow)
    ]
    assert (number, more) == (3, [])
    assert reason.startswith("file of this machine: image pictures/c.webp: ")
    assert "allow_local" in reason
    assert facts(await read(own, on_s3, allow_local=False)) == EXPECTED


async def test_who_names_another_outputs_pictures_means_them(moto: S3Server) -> None:
    root = fill(moto)
    key = f"{root}/restyled/images/cat-0123456789abcdef/1.jpeg"
    marks = {"job-key": "k", "prediction-id": "p", "seed": "1"}
    moto.client().put_object(Bucket=moto.bucket, Key=key, Body=b"x", Metadata=marks)
    second = output_at(moto, f"{root}/second")
    rows = await read(f"s3://{moto.bucket}/{root}/restyled/images/", second)
    assert [row.image for row in rows] == [f"s3://{moto.bucket}/{key}"]
    with pytest.raises(ManifestError, match="name their folder images/"):
        await read(f"s3://{moto.bucket}/{root}/restyled/", second)


async def test_a_prefix_is_listed_page_by_page(moto: S3Server) -> None:
    root = fill(moto, *(f"in/{number}.jpg" for number in range(7)))
    with proxy(moto) as (way, seen):
        way.page = 2
        batches = [
            batch
            async for batch in read_manifest(
                f"s3://{moto.bucket}/{root}/in/", DEFAULTS, output_at(seen, "out")
            )
        ]
    assert [row.number for batch in batches for row in batch] == [1, 2, 3, 4, 5, 6, 7]
    assert way.request_lines.count(f"GET /{moto.bucket}") == 4


# --- rows that are wrong ---

REASONS = [
    ({}, "image is empty: use an https URL, s3://bucket/key, or the path of a picture"),
    ({"image": None}, "image is empty: use an https URL, s3://bucket/key, or the path of a picture"),
    ({"image": "  "}, "image is empty: use an https URL, s3://bucket/key, or the path of a picture"),
    ({"image": 7}, "image 7: give text"),
    ({"image": "https://"}, "no host in the URL: image https://"),
    (
        {"image": "http://example.com/a.jpg"},
        "unencrypted URL: image http://example.com/a.jpg: WaveSpeedAI fetches from https:// only",
    ),
    ({"image": "s3:/b/a.jpg"}, "mistyped URL: image s3:/b/a.jpg: did you mean s3://b/a.jpg?"),
    ({"image": "s3://bucket/"}, "no key: image s3://bucket/: use s3://bucket/key"),
    ({"image": "a\x00.jpg"}, "control character: image a\\u0000.jpg: rename it, or correct the manifest"),
    ({"imgae": "a.jpg"}, SLIP),
    (
        {"image": "a", "prompt": "x"},
        f'unknown column "prompt": {NO_PROMPT}; {asides("prompt", "it")}',
    ),
    (
        {"image": "a", "colour": "x", "imgae": "b"},
        f'unknown columns "colour", "imgae" (image?): {asides("colour,imgae")}',
    ),
    (
        {"image_url": "a", "my sku": "x"},
        'unknown columns "image_url", "my sku": columns=image=image_url if that is what it holds; '
        + asides("'image_url,my sku'"),
    ),
    ({"image": "a", "steps": 99}, "num_inference_steps 99: must be 1 to 50"),
    (
        {"image": "a", "steps": 9, "num_inference_steps": 9},
        f'columns "steps" and "num_inference_steps" mean the same: leave one out, such as {LEAVE_OUT}',
    ),
    ({"image": "a", "num_images": 9}, "num_images 9: must be 1 to 4"),
    ({"image": "a", "num_images": "2"}, 'num_images "2": give a whole number'),
    ({"image": "a", "num_images": 2.5}, "num_images 2.5: give a whole number"),
    ({"image": "a", "seed": True}, "seed true: give a whole number"),
    ({"image": "a", "seed": 2**31}, "seed 2147483648: must be -1 to 2147483647"),
    ({"image": "a", "guidance_scale": "3"}, 'guidance_scale "3": give a number'),
    ({"image": "a", "guidance_scale": 0.5}, "guidance_scale 0.5: must be 1 to 20"),
    ({"image": "a", "enable_sync_mode": 1}, "enable_sync_mode 1: give true or false"),
    ({"image": "a", "size": [1]}, "size [1]: give text"),
    ({"image": "a", "size": "9"}, 'size "9": must be W*H in pixels, for example 1024*1024, or source'),
    ({"image": "a", "output_format": "gif"}, "output_format \"gif\": must be 'jpeg', 'png' or 'webp'"),
    ({"image": "a", "variant": -1}, "variant -1: must be at least 0"),
    ({"image": "a", "variant": 10**30}, f"variant {10**30}: must be at most 2147483647"),
    (
        {"image": "a", "variant": 2, "seed": 7},
        "variant 2 with seed 7: a variant has its own seed: give one of the two",
    ),
    ({"image": "a", "id": ["x"]}, 'id ["x"]: give text or a number'),
    ({"image": "a", "id": "\ud800"}, 'id "?" contains half a character (a lone surrogate)'),
    (
        {"image": "a", "num_images": 0, "num_inference_steps": 99},
        "num_inference_steps 99: must be 1 to 50; num_images 0: must be 1 to 4",
    ),
    ([1], '[1] is not a JSON object: give {"image": "…"}'),
    ("a.jpg", '"a.jpg" is not a JSON object: give {"image": "…"}'),
]


@pytest.mark.parametrize(("row", "reason"), REASONS)
async def test_a_row_that_cannot_be_used_is_reported(
    row: Any, reason: str, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl({"image": "first.jpg"}, row, {"image": "last.jpg"}))
    assert await bad(path, store) == [(2, reason)]
    assert [image for image, *_ in facts(await read(path, store))] == ["first.jpg", "last.jpg"]


async def test_bad_json_is_reported_with_its_row_and_where_in_the_row_it_is(
    store: Store, tmp_path: Path
) -> None:
    lines = [json.dumps({"image": f"{number}.jpg"}) for number in range(1, 11)]
    lines[6] = '{"image": "7.jpg", "seed": }'
    lines[8] = '{"image": "9.jpg"'
    lines[9] = '{"image": "10.jpg}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert await bad(tmp_path / "a.jsonl", store) == [
        (7, "not JSON: Expecting value at character 28"),
        (9, "not JSON: Expecting ',' delimiter at character 18"),
        (10, "not JSON: Unterminated string starting at character 11"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "a", "guidance_scale": NaN}', "not JSON: NaN is not a number"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5_000, "it holds a number with too many digits"),
        ("{", "not JSON: Expecting property name enclosed in double quotes at character 2"),
        ("nope", "not JSON: Expecting value at character 1"),
    ],
    ids=["NaN", "deep", "digits", "cut", "word"],
)
async def test_invalid_json_is_only_a_bad_row(line: str, reason: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{line}\n\n{{"image": "b"}}\n')
    rows = await read(tmp_path / "a.jsonl", store)
    assert isinstance(rows[0], BadRow)
    assert rows[0].reason == reason
    assert rows[1] == Row(3, "b", DEFAULTS), "empty lines count, as they do in an editor"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("a.jpg,,two,", 'num_images "two": give a whole number'),
        ("a.jpg,,2.5,", 'num_images "2.5": give a whole number'),
        ("a.jpg,,,maybe", 'enable_sync_mode "maybe": give true or false'),
        (",x,,", "image is empty: use an https URL, s3://bucket/key, or the path of a picture"),
        ("a.jpg,x", "2 cells, but the header has 4"),
        ("a.jpg,x,1,true,5", "5 cells, but the header has 4"),
        (f"a.jpg,{'x' * 2_000_000},,", "longer than 1 MB: put one image on each line"),
    ],
)
async def test_a_row_of_a_csv_file_that_cannot_be_used_is_reported(
    cells: str, reason: str, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        f'image, id, num_images, enable_sync_mode\n"b\n.jpg",,,\n\n{cells}\nc.jpg,=1+1, 2 ,TRUE\n,,,\n'
    )
    assert (await bad(path, store))[1:] == [(5, reason)], "the line that an editor shows"
    (row,) = facts(await read(path, store))
    assert row == (
        "c.jpg",
        "=1+1",
        0,
        DEFAULTS.model_copy(update={"num_images": 2, "enable_sync_mode": True}),
    )


async def test_a_row_of_a_parquet_file_that_cannot_be_used_is_reported(store: Store, tmp_path: Path) -> None:
    columns = {"image": ["a", None, "c"], "num_images": [2.0, 1.0, 1.5], "id": [1, 2, 3]}
    (tmp_path / "a.parquet").write_bytes(parquet(columns))
    empty = "image is empty: use an https URL, s3://bucket/key, or the path of a picture"
    assert await bad(tmp_path / "a.parquet", store) == [
        (2, empty),
        (3, "num_images 1.5: give a whole number"),
    ]
    (row,) = facts(await read(tmp_path / "a.parquet", store))
    assert row == ("a", "1", 0, DEFAULTS.model_copy(update={"num_images": 2}))


async def test_a_bad_row_keeps_its_id_and_its_image_without_a_signature(store: Store, tmp_path: Path) -> None:
    url = "ftp://example.com/a.jpg?X-Amz-Signature=secret"
    (tmp_path / "a.jsonl").write_bytes(jsonl({"image": url, "id": 7}, {"image": IMAGES[0], "seed": "x"}))
    rows = await read(tmp_path / "a.jsonl", store)
    assert [(row.number, row.id) for row in rows] == [(1, "7"), (2, None)]
    assert "secret" not in str(rows)
    assert rows[1].image == "https://example.com/a.jpg"


async def test_a_row_shows_its_image_without_its_signature(store: Store) -> None:
    rows = await read([*IMAGES, "s3://bucket/a?b#c.jpg"], store)
    assert [row.safe_image for row in rows if isinstance(row, Row)] == [
        "https://example.com/a.jpg",
        *IMAGES[1:],
        "s3://bucket/a?b#c.jpg",
    ]


# --- lists that are wrong as a whole ---


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


WHOLE: list[tuple[str, bytes, str]] = [
    ("a.jsonl", b"", "it has no rows: give at least one image"),
    ("a.jsonl", b"\n \n", "it has no rows: give at least one image"),
    ("a.csv", b"", "it has no rows: give at least one image"),
    ("a.csv", b"image,seed\n", "it has no rows: give at least one image"),
    ("a.parquet", parquet({"image": pa.array([], pa.string())}), "it has no rows: give at least one image"),
    ("a.txt", b"a.jpg\n", f"unsupported file type: {KINDS}"),
    ("a", b"a.jpg\n", f"unsupported file type: {KINDS}"),
    ("a.json", b" \n", "it has no rows: give at least one image"),
    ("a.json", b"[]", "it has no rows: give at least one image"),
    ("a.json", b'{"image": "a"}', '{"image": "a"} is not a JSON array: give [{"image": "…"}, …]'),
    (
        "a.json",
        b'{"image": "a"}\n{"image": "b"}\n',
        "not JSON: Extra data: line 2 column 1 (char 15): if it is lines of JSON, name it .jsonl",
    ),
    ("a.json", b'[{"image": "\xe9"}]', "not UTF-8: save the file as UTF-8"),
    ("a.xlsx", b"PK\x03\x04", "it is a spreadsheet: save it as CSV"),
    ("a.csv", b"PK\x03\x04\x14\0", "it is a spreadsheet or an archive: save it as CSV"),
    ("a.csv", b"\n<!doctype HTML>", "it is a web page, such as one to sign in on: check its address"),
    ("a.csv", b"image\n" + b",\n" * 1_048_577, "over 1,048,576 lines in a row are empty: leave them out"),
    ("a.csv", PARQUET, "it is Parquet: give it a name that ends in .parquet"),
    ("a.csv", b"imgae,seed\na,1\n", f"{SLIP}; {KNOWN}"),
    (
        "a.csv",
        b"image,sku,title\na,1,b\n",
        f'unknown columns "sku", "title": {SKU}; {asides("sku,title")}; {KNOWN}',
    ),
    ("a.csv", b"id,seed\na,1\n", f"no column 'image': its columns are id, seed; {NAME_IT}"),
    ("a.csv", b"image,seed,image\na,1,b\n", "column 'image' appears twice"),
    ("a.csv", b'image\na\n"b\nc\n', "row 3 is not valid CSV: unexpected end of data: is a quote not closed?"),
    ("a.csv", b"image,\xe9\na,b\n", "its first line is not UTF-8: save the file as UTF-8"),
    (
        "a.jsonl.gz",
        half(gzip.compress(jsonl(*ROWS), mtime=0)),
        "cannot be read: Compressed file ended before",
    ),
    ("a.parquet", parquet({"imgae": ["a"]}), f"{SLIP}; {KNOWN}"),
    (
        "a.parquet",
        parquet({"seed": [1]}),
        f"no column 'image': its columns are seed; {NAME_IT}",
    ),
    ("a.parquet", parquet({"image": [1]}), "column 'image' is of type int64: give text"),
    (
        "a.parquet",
        parquet({"image": ["a"], "num_images": ["1"]}),
        "column 'num_images' is of type string: give a whole number",
    ),
    (
        "a.parquet",
        parquet({"image": ["a"], "enable_sync_mode": [1]}),
        "column 'enable_sync_mode' is of type int64: give true or false",
    ),
    (
        "a.parquet",
        parquet({"image": ["a"], "seed": [[1]]}),
        "column 'seed' is of type list<element: int64>: give a whole number",
    ),
    ("a.parquet", b"image,seed\na,1\n", "not a complete Parquet file: "),
    ("a.parquet", half(PARQUET), "not a complete Parquet file: "),
]


@pytest.mark.parametrize(("name", "data", "says"), WHOLE)
async def test_a_file_that_is_no_list_of_images_is_reported(
    name: str, data: bytes, says: str, store: Store, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    message = await refused(tmp_path / name, store)
    expected = f"manifest {tmp_path / name}: {says}"
    assert message == expected or (message.startswith(expected) and says.endswith((": ", "before")))
    assert "\n" not in message


async def test_a_file_that_is_not_there_is_reported(store: Store, tmp_path: Path) -> None:
    missing = tmp_path / "a.jsonl"
    assert await refused(missing, store) == f"manifest {missing}: no such file or folder"
    assert await refused("s3:/b/a.csv", store) == "manifest s3:/b/a.csv: did you mean s3://b/a.csv?"
    assert await refused("file:///tmp/a%20b.csv", store) == (
        "manifest file:///tmp/a%20b.csv: a file URL: use the path /tmp/a b.csv"
    )
    assert (
        await refused("", store) == "manifest '': it is empty: give a file, a folder or s3://bucket/prefix/"
    )
    assert await refused([], store) == "manifest (a list of 0): it has no rows: give at least one image"


async def test_a_list_on_s3_that_is_not_there_is_reported(on_s3: Store, moto: S3Server) -> None:
    bucket = f"s3://{moto.bucket}"
    assert (
        await refused(f"{bucket}/no.csv", on_s3)
        == f"manifest {bucket}/no.csv: no such object, or no such bucket"
    )
    assert await refused(f"{bucket}/in", on_s3) == f"manifest {bucket}/in: unsupported file type: {KINDS}"
    assert await refused(f"{bucket}/nothing/", on_s3) == (f"manifest {bucket}/nothing/: no images below it")
    assert await refused("s3://", on_s3) == (
        "manifest s3://: the bucket's name is missing: give s3://bucket/prefix/"
    )
    with pytest.raises(ConfigurationError, match=r"bucket does not exist: cannot list s3://nowhere/in/"):
        await read("s3://nowhere/in/", on_s3)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "HTTP 404: no such file"),
        (401, "HTTP 401: access denied: give a signed URL"),
        (403, "HTTP 403: access denied, or the signature has expired"),
        (500, "HTTP 500"),
    ],
)
async def test_a_list_that_is_not_at_its_url_is_reported(status: int, says: str, store: Store) -> None:
    async with RawServer(http(status)) as server:
        url = f"{server.url}/a.csv"
        assert await refused(f"{url}?X-Amz-Signature=secret", store) == f"manifest {url}: {says}"


async def test_a_list_that_is_cut_off_on_its_way_is_no_list(store: Store) -> None:
    async with RawServer(cut(http(200, jsonl(*ROWS)), 5)) as server:
        message = await refused(f"{server.url}/a.jsonl", store)
    assert message.startswith(f"manifest {server.url}/a.jsonl: cannot be fetched: ")


async def test_a_list_is_not_fetched_in_the_clear(store: Store) -> None:
    says = "is not supported: give https://, s3:// or a path"
    for scheme in ("http", "ftp"):
        manifest = f"{scheme}://example.com/a.csv"
        assert await refused(manifest, store) == f"manifest {manifest}: {scheme}:// {says}"
    async with RawServer(http(302, location="http://203.0.113.1/a.csv")) as server:
        with pytest.raises(RestyleError, match="cannot be fetched: it is not https"):
            await read(f"{server.url}/a.csv", store)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http(302, location="https://10.0.0.1/a.csv"), "10.0.0.1 is not a public address"),
        (http(302, location="https://169.254.169.254/a.csv"), "169.254.169.254 is not a public address"),
        (http(302, location="https://metadata.invalid/a.csv"), "cannot be fetched"),
        (http(200, bytes(2_000)), "over 0 MB: divide it, or put it on S3"),
        (http(200, b"x" * 100)[:-50], "not fetched within 0.3 s: put it on S3"),
        (b"nonsense\r\n\r\n", "cannot be fetched"),
    ],
)
async def test_a_list_on_the_web_is_public_and_comes_within_limits(
    answer: bytes, says: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 1_000)
    monkeypatch.setattr(reading, "LONGEST_DOWNLOAD", 0.3 if "within" in says else 30)
    async with RawServer(answer) as server:
        message = await refused(f"{server.url}/a.csv", store)
    assert message.startswith(f"manifest {server.url}/a.csv: ")
    assert says in message
    assert "10.0.0.1 is not a public address" in await refused("https://10.0.0.1/a.csv", store)


async def test_a_list_on_the_web_is_read_with_the_authorities_of_aws_ca_bundle(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate = write_certificates("127.0.0.1", tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(200, jsonl({"image": IMAGES[1]})))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.jsonl"
    async with server:
        assert "certificate" in (await refused(url, store)).lower()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        assert [row.image for row in await read(url, store)] == [IMAGES[1]]


def test_a_manifest_is_shown_without_its_signature() -> None:
    assert (
        safe_name("https://example.com/a.csv?X-Amz-Signature=secret&page=1") == "https://example.com/a.csv?…"
    )
    assert safe_name("https://[/?X-Amz-Signature=secret") == "https://[/?…"
    assert safe_name(["a", "b"]) == "(a list of 2)"


# --- a stream ---


async def test_a_long_cell_of_a_table_is_one_bad_row_and_takes_no_memory(
    store: Store, tmp_path: Path
) -> None:
    path, long = tmp_path / "a.parquet", "x" * 1_100_000
    notes = [*[long] * 60, "short", "short"]
    lists = [[1]] * 61 + [[1] * 1_000_000]
    images = [f"s3://bucket/{number}.jpg" for number in range(62)]
    pq.write_table(pa.table({"image": images, "notes": notes, "list": lists}), path)
    assert path.stat().st_size < 5_000_000
    tracemalloc.start()
    carried = Columns(carried=frozenset({"notes", "list"}))
    pages = read_manifest(str(path), DEFAULTS, store, columns=carried)
    rows = [row async for page in pages for row in page]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [row.number for row in rows if isinstance(row, Row)] == [61]
    reasons = [f"column {name} is longer than 1 MB" for name in (*["notes"] * 60, "list")]
    assert [row.reason for row in rows if isinstance(row, BadRow)] == reasons
    assert peak < 10_000_000


def write_jsonl(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.writelines(
            f'{{"image": "s3://bucket/{number}.jpg", "id": {number}}}\n' for number in range(rows)
        )


def write_csv(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("image,id\n")
        file.writelines(f"s3://bucket/{number}.jpg,{number}\n" for number in range(rows))


def write_parquet(path: Path, rows: int) -> None:
    columns = {"image": [f"s3://bucket/{number}.jpg" for number in range(rows)], "id": list(range(rows))}
    pq.write_table(pa.table(columns), path, use_dictionary=False, data_page_size=1 << 14)


async def peak(path: Path, rows: int, store: Store) -> int:
    tracemalloc.start()
    arrow = most = pa.total_allocated_bytes()
    try:
        count = 0
        async for batch in read_manifest(str(path), DEFAULTS, store):
            assert all(isinstance(row, Row) for row in batch)
            count += len(batch)
            most = max(most, pa.total_allocated_bytes())
        assert count == rows
        return tracemalloc.get_traced_memory()[1] + int(most - arrow)
    finally:
        tracemalloc.stop()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "write", "rows"),
    [
        ("a.jsonl", write_jsonl, 50_000),
        ("a.csv", write_csv, 50_000),
        ("a.parquet", write_parquet, 50_000),
    ],
)
async def test_ten_times_the_rows_need_no_more_memory(
    name: str, write: Callable[[Path, int], None], rows: int, store: Store, tmp_path: Path
) -> None:
    peaks = []
    for number in (rows // 10, rows // 10, rows):  # the first fills caches
        write(tmp_path / name, number)
        peaks.append(await peak(tmp_path / name, number, store))
    assert peaks[2] < 1.5 * peaks[1] + 1_000_000
    assert peaks[2] < 16_000_000
