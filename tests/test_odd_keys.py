"""One odd key, or one object that cannot be read, never stops the others; S3 is served by this process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
from botocore.config import Config
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.manifest.rows import BadRow
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.errors import ManifestError, StoreError
from prefect_wavespeed.job import Job, RunInfo
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.storage.open_store import directory_store
from prefect_wavespeed.storage.store import Store
from tests.support.cases import many
from tests.support.fake_batch import FOLDER, FakeApi
from tests.support.plain_s3 import PlainS3, plain_s3

MANY = many(60)


@pytest.fixture(scope="module")
def server() -> Iterator[PlainS3]:
    with plain_s3() as running:
        yield running


@pytest.fixture(scope="module")
def store(server: PlainS3, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return server.read_by(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def output(server: PlainS3) -> Store:
    """An output on the server."""
    return server.store()


@pytest.fixture
def s3(server: PlainS3) -> PlainS3:
    """The server, empty."""
    server.reset()
    return server


async def read(manifest: str | Sequence[str], store: Store) -> tuple[list[Job], list[BadRow]]:
    """What a batch that skips bad rows makes of a manifest."""
    options, run = BatchOptions(on_bad_row="skip"), RunInfo(package_version="test")
    with instant_retries():
        async with Batch(cast("WaveSpeedClient", FakeApi()), store, run, FOLDER, options) as batch:
            await batch.read(manifest)
            return list(batch.table.unfinished()), batch.table.first_bad_rows(1000)


# --- keys ---

PART = st.sampled_from(
    [
        "",
        ".",
        "..",
        "a",
        "é ü",
        "a+b %2F",
        "\x01",
        "\n",
        "\t",
        "\x7f",
        "x\x85",
        "\x1b[31m",
        "?#&=",
        " ",
        "~",
        "…",
    ]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=4)
ENDING = st.sampled_from([".png", ".JPG", ".txt", "", ".jpg/", "/", ".webp"])
KEYS = st.builds(lambda parts, ending: "/".join(parts) + ending, st.lists(PART, max_size=4), ENDING)


def is_odd(key: str) -> bool:
    return not {"", ".", ".."}.isdisjoint(key.split("/")) or any(
        ord(char) < 32 or 127 <= ord(char) < 160 for char in key
    )


@MANY
@given(st.lists(KEYS.filter(bool), max_size=8), st.booleans(), st.integers(1, 5))
@example(["/b.png", "b.png"], False, 5)
@example(["/notes.txt"], True, 5)
@example(["album.jpg/"], True, 5)
def test_every_picture_below_a_prefix_is_a_row_under_its_own_name_whatever_lies_beside_it(
    s3: PlainS3, store: Store, keys: list[str], below_in: bool, page: int
) -> None:
    s3.reset()
    prefix = "in/" if below_in else ""
    s3.keys, s3.page = ["in/good.png", *(prefix + key for key in keys)], page
    jobs, bad = asyncio.run(read(f"s3://{s3.bucket}/{prefix}", store))
    pictures = {key for key in s3.keys if re.search(r"(?is)[^/]\.(png|jpg|webp)$", key) and key[-1] != "\n"}
    expected = {f"s3://{s3.bucket}/{key}" for key in pictures if not is_odd(key)}
    assert {job.source.uri for job in jobs} == expected
    assert len(bad) == sum(is_odd(key) for key in pictures)
    for row in bad:
        assert row.reason.startswith(("empty part, '.' or '..' in the key: image s3://", "control character"))
        assert "\n" not in row.reason


@MANY
@given(st.lists(KEYS.filter(bool), min_size=1, max_size=8))
def test_an_odd_key_named_in_a_manifest_is_refused_by_its_own_name(
    s3: PlainS3, store: Store, keys: list[str]
) -> None:
    s3.reset()
    s3.keys = ["good.png", *(key for key in keys if not is_odd(key))]
    rows = [f"s3://{s3.bucket}/{key}" for key in ["good.png", *keys]]
    jobs, bad = asyncio.run(read(rows, store))
    assert {job.source.uri for job in jobs} == {f"s3://{s3.bucket}/{key}" for key in s3.keys}
    assert len(bad) == sum(map(is_odd, keys))
    assert not [key for key in s3.heads if key not in s3.keys], "no other object was looked at"


@given(st.lists(KEYS.filter(bool), max_size=5), st.integers(1, 3))
@many(30)
def test_an_odd_key_below_an_output_does_not_hide_what_is_stored_there(
    s3: PlainS3, output: Store, keys: list[str], page: int
) -> None:
    s3.reset()
    names = ["a.json", "b/c.json", "z.json"]
    s3.keys, s3.page = [f"out/open/{name}" for name in [*names, *keys]], page

    async def both() -> tuple[list[str], list[str]]:
        pages = [entry.path async for found in output.pages("open/") for entry in found]
        return pages, [entry.path for entry in await output.list("open/")]

    for paths in asyncio.run(both()):
        assert {f"open/{name}" for name in names} <= set(paths)
        assert len(paths) == len(set(paths))


FILE_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=5
)


@many(40)
@given(st.lists(FILE_NAMES | st.sampled_from(["\x01", "a\n.json", "\x7f", "%2e", "#", "..."]), max_size=4))
def test_a_file_with_an_odd_name_below_an_output_does_not_hide_what_is_stored_there(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        output, paths = directory_store(Path(folder)), {"open/a.json", "open/b/c.json", "open/z.json"}
        for path in [*paths, *(f"open/b/{name}" for name in names if name not in (".", ".."))]:
            Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, path).write_bytes(b"x")

        async def both() -> tuple[list[str], list[str]]:
            pages = [entry.path async for found in output.pages("open/") for entry in found]
            return pages, [entry.path for entry in await output.list("open/")]

        for listed in asyncio.run(both()):
            assert paths <= set(listed)
            assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    "bucket", ["..", ".", "a b", "a?b", "é", "a%2e", "arn:aws:s3:eu-west-1:1:accesspoint/x"]
)
async def test_a_bucket_that_cannot_exist_is_a_bad_row(s3: PlainS3, store: Store, bucket: str) -> None:
    s3.keys = ["a.png"]
    jobs, bad = await read([f"s3://{s3.bucket}/a.png", f"s3://{bucket}/a.png"], store)
    assert len(jobs) == len(bad) == 1
    if not bucket.startswith("arn:"):
        with pytest.raises(ManifestError, match="not a valid bucket name"):
            await read(f"s3://{bucket}/", store)


@pytest.mark.parametrize("path", ["photos//list.csv", "photos/../list.csv", "a b/list.csv"])
async def test_a_manifest_under_an_odd_key_is_refused_by_its_own_name(
    s3: PlainS3, store: Store, path: str
) -> None:
    with pytest.raises(
        ManifestError, match=re.escape(f"manifest s3://{path}: not a valid bucket name, or the key")
    ):
        await read(f"s3://{path}", store)
    assert not s3.heads


# --- answers for one object ---


def named(s3: PlainS3) -> list[str]:
    """A manifest that names all objects, so that each is looked at."""
    return [f"s3://{s3.bucket}/{key}" for key in s3.keys]


ANSWERS = [
    (
        301,
        "bucket is in region eu-west-1, not us-east-1: image s3://photos/odd.png: restyle its",
    ),
    (307, "bucket is in region eu-west-1, not us-east-1: image s3://photos/odd.png"),
    (400, "bucket is in region eu-west-1, not us-east-1: image s3://photos/odd.png"),
    (401, "access denied: cannot read image s3://photos/odd.png"),
    (403, "access denied: cannot read image s3://photos/odd.png"),
    (404, "no such object: image s3://photos/odd.png"),
    (405, "deleted (HTTP 405): image s3://photos/odd.png"),
    (410, "deleted (HTTP 410): image s3://photos/odd.png"),
    (412, "bucket is in region eu-west-1"),
    (416, "not an image but an empty file: image s3://photos/odd.png"),
]


@pytest.mark.parametrize(("status", "reason"), ANSWERS)
async def test_an_answer_for_one_object_is_that_rows_failure_with_its_reason(
    s3: PlainS3, store: Store, status: int, reason: str
) -> None:
    s3.keys, s3.status, s3.region = ["a.png", "odd.png", "z.png"], {"odd.png": status}, "eu-west-1"
    jobs, (bad,) = await read(named(s3), store)
    assert [job.source.name for job in jobs] == ["a.png", "z.png"]
    assert bad.reason.startswith(reason)
    assert bad.status == "failed"
    assert s3.heads.count("odd.png") == 1


@given(st.lists(st.sampled_from([200, *range(300, 309), *range(400, 432), 451]), min_size=1, max_size=8))
@many(40)
def test_whatever_is_answered_for_some_objects_the_others_are_read(
    s3: PlainS3, store: Store, answers: list[int]
) -> None:
    s3.reset()
    s3.keys = ["good.png", *(f"{number}.png" for number in range(len(answers)))]
    passing = {408, 409, 425, 429}
    s3.status = {f"{number}.png": status for number, status in enumerate(answers) if status not in passing}
    jobs, bad = asyncio.run(read(named(s3), store))
    assert len(jobs) == 1 + sum(status in passing | {200} for status in answers)
    assert len(bad) == 1 + len(answers) - len(jobs)
    assert all(row.image and row.image in row.reason for row in bad)


async def test_an_object_encrypted_with_a_key_of_its_own_is_named(s3: PlainS3, store: Store) -> None:
    s3.keys, s3.status = ["a.png", "odd.png"], {"odd.png": 400}
    _, (bad,) = await read(named(s3), store)
    assert bad.reason.startswith(
        "HTTP 400: image s3://photos/odd.png: is it encrypted with a key of your own"
    )


async def test_what_one_object_cannot_pass_is_its_own_while_the_bucket_answers_and_else_everybodys(
    s3: PlainS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.storage.s3._RETRIES", {"max_retries": 0})
    monkeypatch.setattr("prefect_wavespeed.storage.s3._CONFIG", Config(retries={"total_max_attempts": 1}))
    store = directory_store(tmp_path)
    store.access = s3.store().access
    s3.keys, s3.status = ["a.png", "odd.png"], {"odd.png": 503}
    jobs, (bad,) = await read(named(s3), store)
    assert len(jobs) == 1
    assert "503" in bad.reason
    s3.bucket_status = 503
    with pytest.raises(StoreError, match="503"):
        await read(named(s3), store)


async def test_a_row_that_needs_credentials_where_there_are_none_does_not_stop_those_that_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = directory_store(tmp_path / "out")
    jobs, (bad,) = await read(["s3://photos/a.png", "https://example.com/a.png"], store)
    assert len(jobs) == 1
    assert bad.reason.startswith("no AWS credentials found: bucket s3://photos")
    assert bad.reason.endswith("image s3://photos/a.png")


# --- rows of any kind ---

TEXT = st.text(max_size=30) | st.builds(
    lambda start, rest: start + rest,
    st.sampled_from(
        ["https://", "s3://", "~", "/", "data:", "arn:", "file://", "//", "C:\\", "https://[", "~x/"]
    ),
    st.text(max_size=300),
)


@MANY
@given(st.lists(TEXT, max_size=6))
@example(["~nosuchuser/a.jpg"])
@example(["a" * 5000])
@example(["/dev/zero"])
@example(["data:image/png;base64," + "A" * 5000])
def test_any_text_in_place_of_an_image_is_one_bad_row_in_one_line(
    s3: PlainS3, store: Store, images: list[str]
) -> None:
    s3.reset()
    s3.keys = ["good.png"]
    jobs, bad = asyncio.run(read([f"s3://{s3.bucket}/good.png", *images], store))
    assert len(jobs) >= 1
    urls = sum(image.lower().startswith("https://") for image in images)
    assert len(images) - urls <= len(bad) + sum(image == f"s3://{s3.bucket}/good.png" for image in images)
    assert all(row.reason and "\n" not in row.reason for row in bad)
