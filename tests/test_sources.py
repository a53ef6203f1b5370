"""Which picture is meant, how WaveSpeedAI gets to see it, and what is refused before anything is spent."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.manifest.read import read_manifest
from prefect_wavespeed.batch.manifest.rows import BadRow, Row
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.errors import InvalidRequestError, PredictionFailedError, SourceError
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.sources.identify import identify
from prefect_wavespeed.sources.objects import listed_object
from prefect_wavespeed.sources.publish import Publisher, presigned
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.s3 import S3Access
from prefect_wavespeed.storage.store import Store
from tests.support.batches import restyle_all
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, SMALL, restyle
from tests.support.runners import running
from tests.support.s3_proxy import proxy
from tests.support.s3_servers import S3Server

OTHER_PHOTO = PHOTO.with_name("coffee.jpg")
PICTURE = "https://example.com/pictures/a%20b.jpg"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


@pytest.fixture
def on_s3(moto: S3Server) -> Store:
    return s3_store(moto.bucket, uuid.uuid4().hex, moto.session(), endpoint_url=moto.endpoint)


def put(server: S3Server, key: str, data: bytes) -> str:
    server.client().put_object(Bucket=server.bucket, Key=key, Body=data)
    return f"s3://{server.bucket}/{key}"


def calls(emulator: Emulator) -> int:
    return sum(emulator.ledger()["calls"].values())


async def test_an_https_source_is_passed_on_untouched_even_when_it_cannot_be_reached_from_here(
    emulator: Emulator, store: Store
) -> None:
    url = "https://pictures.invalid/a.jpg?X-Amz-Signature=secret&X-Amz-Date=1"
    with pytest.raises(PredictionFailedError) as caught:  # by the emulator, which cannot reach it either
        await restyle(emulator.url, store, url)
    assert "secret" not in str(caught.value)
    ledger = emulator.ledger()
    assert [prediction["input"]["image"] for prediction in ledger["predictions"]] == [url]
    assert ledger["calls"]["upload"] == 0
    for entry in await store.list(""):
        assert b"secret" not in (await store.get(entry.path) or b""), entry.path


async def test_the_same_bytes_under_two_names_are_one_job_in_one_folder_billed_once(
    emulator: Emulator, store: Store, tmp_path: Path
) -> None:
    copy = tmp_path / "another name.jpg"
    copy.write_bytes(PHOTO.read_bytes())
    first, second = await restyle(emulator.url, store), await restyle(emulator.url, store, copy)
    assert (first.cached, second.cached) == (False, True)
    assert first.metadata_uri == second.metadata_uri
    assert emulator.ledger()["billed"] == 1


async def test_in_a_versioned_bucket_other_bytes_are_restyled_anew_and_the_same_bytes_again_are_not(
    moto: S3Server, emulator: Emulator, on_s3: Store
) -> None:
    client, bucket, key = moto.client(), uuid.uuid4().hex, "in/a.jpg"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    options = BatchOptions(params=SMALL)

    async def becomes_of(data: bytes | None) -> str:
        """What becomes of the object, if need be once it is put again."""
        if data is not None:
            client.put_object(Bucket=bucket, Key=key, Body=data)
        (status,) = (await restyle_all(emulator.url, on_s3, f"s3://{bucket}/in/", options)).statuses
        return status

    mine, others = PHOTO.read_bytes(), OTHER_PHOTO.read_bytes()
    nights = [await becomes_of(data) for data in (mine, mine, others, others, mine)]
    assert nights == ["stored", "done", "stored", "done", "done"]
    marker = client.delete_object(Bucket=bucket, Key=key)["VersionId"]
    client.put_object(Bucket=bucket, Key="in/b.jpg", Body=others)
    assert await becomes_of(None) == "stored", "b.jpg is another picture, whatever its bytes"
    client.delete_object(Bucket=bucket, Key="in/b.jpg")
    client.delete_object(Bucket=bucket, Key=key, VersionId=marker)
    assert await becomes_of(None) == "done", "a.jpg is restored as it was"
    again = await restyle(emulator.url, on_s3, f"s3://{bucket}/{key}")
    assert again.cached, "by its name as by a listing"
    assert emulator.ledger()["billed"] == 3


async def test_a_source_below_a_prefix_needs_no_request_of_its_own_and_is_refused_by_its_listed_size(
    moto: S3Server, on_s3: Store
) -> None:
    folder, sizes = uuid.uuid4().hex, {"a.jpg": 5, "b.jpg": 6, "big.jpg": 20 * 2**20 + 1, "empty.jpg": 0}
    images = {name: put(moto, f"{folder}/{name}", bytes(size)) for name, size in sizes.items()}
    with proxy(moto) as (running, server):
        store = s3_store(server.bucket, "out", server.session(), endpoint_url=server.endpoint)
        pages = [page async for page in read_manifest(f"s3://{moto.bucket}/{folder}/", SMALL, store)]
    assert [method for method, *_ in running.requests] == ["GET"]
    for name, row in zip(sorted(images), pages[0], strict=True):
        if isinstance(row, Row):
            assert row.source == await identify(images[name], on_s3)
        else:
            with pytest.raises(SourceError) as caught:
                await identify(images[name], on_s3)
            assert (row.reason, row.status) == (caught.value.message, "failed")
    assert [isinstance(row, BadRow) for row in pages[0]] == [False, False, True, True]


async def test_a_listing_that_tells_no_etag_leaves_the_look_to_the_row() -> None:
    entry = Entry("a.jpg", datetime.now(UTC), 5)
    assert listed_object("s3://bucket/a.jpg", entry) is None
    assert listed_object("s3://bucket/a.jpg", replace(entry, e_tag='"0f"'))


async def test_the_same_bytes_are_uploaded_once_for_many_jobs_and_processes(
    emulator: Emulator, store: Store, moto: S3Server, on_s3: Store
) -> None:
    await store.ensure_conditional_put()
    source = await identify(str(PHOTO), store)
    async with WaveSpeedClient("key", emulator.url) as client:
        publisher = Publisher(client, store)
        urls = await asyncio.gather(*(publisher.url(source) for _ in range(5)))
    assert len(set(urls)) == 1
    for variant in range(2):
        await restyle(emulator.url, store, variant=variant)
    with running() as runners:
        ended = await runners.run(
            store.uri, emulator.url, "--params", SMALL.model_copy(update={"seed": 1}).model_dump_json()
        )
    assert ended.restyled
    ledger = emulator.ledger()
    assert (ledger["uploads"], ledger["billed"]) == (1, 3)

    image = put(moto, "sources/uploaded/a.jpg", OTHER_PHOTO.read_bytes())
    for variant in range(2):
        await restyle(emulator.url, on_s3, image, variant=variant)
    assert emulator.ledger()["uploads"] == 2


@pytest.mark.parametrize("kind", ["file", "object"])
async def test_a_lost_upload_is_sent_again_and_its_job_billed_once(
    kind: str, emulator: Emulator, store: Store, moto: S3Server, on_s3: Store
) -> None:
    out, image = store, str(PHOTO)
    if kind == "object":
        out, image = on_s3, put(moto, "sources/gone/a.jpg", PHOTO.read_bytes())
    await restyle(emulator.url, out, image)
    emulator.reset()
    for variant in range(1, 3):
        await restyle(emulator.url, out, image, variant=variant)
    ledger = emulator.ledger()
    assert (ledger["calls"]["upload"], ledger["calls"]["submit"], ledger["billed"]) == (1, 2, 2)


async def test_an_upload_that_cannot_be_checked_is_used_and_sent_again_on_retry_failed(
    emulator: Emulator, store: Store
) -> None:
    unavailable = [{"on": "cdn", "fault": "status", "status": 503}]
    await restyle(emulator.url, store)
    emulator.faults(unavailable)
    await restyle(emulator.url, store, variant=1)
    assert emulator.ledger()["calls"]["upload"] == 1

    emulator.reset()
    emulator.faults(unavailable)
    with pytest.raises(PredictionFailedError, match="1402"):
        await restyle(emulator.url, store, variant=2)
    await restyle(emulator.url, store, variant=2, retry_failed=True)
    ledger = emulator.ledger()
    assert (ledger["calls"]["upload"], ledger["billed"]) == (1, 1)


REFUSED = {
    "on": "submit",
    "fault": "refused",
    "status": 400,
    "code": 1402,
    "message": "image: the URL could not be fetched",
}


async def test_an_upload_that_a_refused_submission_says_is_gone_is_sent_again_once(
    emulator: Emulator, store: Store
) -> None:
    await restyle(emulator.url, store)
    emulator.faults([{**REFUSED, "times": 1}])
    await restyle(emulator.url, store, variant=1)
    ledger = emulator.ledger()
    assert (ledger["calls"]["upload"], ledger["calls"]["submit"], ledger["billed"]) == (2, 3, 2)
    emulator.faults([{**REFUSED, "times": None}])
    with pytest.raises(InvalidRequestError, match="could not be fetched"):
        await restyle(emulator.url, store, variant=2)
    ledger = emulator.ledger()
    assert (ledger["calls"]["upload"], ledger["calls"]["submit"], ledger["billed"]) == (3, 5, 2)
    emulator.reset()
    emulator.faults([{**REFUSED, "times": None}])
    with pytest.raises(InvalidRequestError):  # one that was sent just now is not sent again
        await restyle(emulator.url, store, str(OTHER_PHOTO))
    assert (emulator.ledger()["calls"]["upload"], emulator.ledger()["billed"]) == (1, 0)


async def test_an_upload_is_checked_once_a_process_and_never_after_sending_it(
    emulator: Emulator, store: Store
) -> None:
    await store.ensure_conditional_put()
    source = await identify(str(PHOTO), store)
    for asked in range(2):
        async with WaveSpeedClient("key", emulator.url) as client:
            publisher = Publisher(client, store)
            await asyncio.gather(*(publisher.url(source) for _ in range(5)))
        assert emulator.ledger()["calls"]["cdn"] == asked
    assert emulator.ledger()["calls"]["upload"] == 1


async def test_a_presigned_url_is_on_aws_itself_and_holds_no_secret_key() -> None:
    session = boto3.Session(
        aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="example", region_name="eu-central-1"
    )
    store = s3_store("outputs", "", session)
    assert store.access
    assert store.access.is_aws
    url = urlsplit(await presigned("s3://pictures/a b.jpg", store))
    assert (url.scheme, url.hostname) == ("https", "s3.eu-central-1.amazonaws.com")
    assert url.path == "/pictures/a%20b.jpg"
    query = parse_qs(url.query)
    assert query["X-Amz-Expires"] == ["3600"]
    assert query["X-Amz-Credential"][0].startswith("AKIAEXAMPLE/")
    assert query["X-Amz-Signature"]
    assert "example" not in url.query.replace("AKIAEXAMPLE", "")


@pytest.mark.parametrize(
    ("key", "data", "storage_class", "says"),
    [
        ("a.jpg", PHOTO.read_bytes(), "GLACIER", r"^archived \(GLACIER\): image s3://\S+: restore it first"),
        ("a.jpg", PHOTO.read_bytes(), "DEEP_ARCHIVE", r"^archived \(DEEP_ARCHIVE\): image "),
        ("a.jpg", b"", "STANDARD", "^not an image but an empty file: image s3://"),
        ("a.jpg", b"<html>" * 5000, "STANDARD", "^not an image but a web page: image s3://"),
        ("a.jpg", b"\0\0\0\x18ftypheic" + bytes(30_000), "STANDARD", "^HEIC is not supported: image s3://"),
        ("a.jpg", PHOTO.read_bytes()[:9_000], "STANDARD", "^damaged jpeg image: image s3://"),
        ("a", PHOTO.read_bytes(), "STANDARD", None),
        ("a.jpg", PHOTO.read_bytes(), "GLACIER_IR", None),
    ],
)
@pytest.mark.parametrize("looks", [True, False])
async def test_a_source_on_aws_is_looked_at_by_its_first_bytes_when_it_is_presigned_unless_switched_off(
    key: str,
    data: bytes,
    storage_class: Any,
    says: str | None,
    looks: bool,
    moto: S3Server,
    on_s3: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(S3Access, "is_aws", True)
    monkeypatch.setenv("RESTYLE_LOOK_AT_SOURCES", str(looks))
    get_settings.cache_clear()
    key = f"sources/{uuid.uuid4().hex}/{key}"
    image = f"s3://{moto.bucket}/{key}"
    moto.client().put_object(Bucket=moto.bucket, Key=key, Body=data, StorageClass=storage_class)
    try:
        async with WaveSpeedClient("key", "http://127.0.0.1:1") as client:
            publisher = Publisher(client, on_s3)
            if not data:
                with pytest.raises(SourceError, match=says):
                    await identify(image, on_s3)
                return
            source = await identify(image, on_s3)
            if says and looks:
                with pytest.raises(SourceError, match=says):
                    await publisher.url(source)
                return
            assert urlsplit(await publisher.url(source)).path == f"/{moto.bucket}/{key}"
            put(moto, key, OTHER_PHOTO.read_bytes())
            with pytest.raises(SourceError, match="changed while it was in use"):
                await publisher.url(source)
    finally:
        get_settings.cache_clear()


BIG = PHOTO.read_bytes() + bytes(20 * 2**20)


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [("file", b"<html>", "not an image"), ("object", b"<html>", "not an image"), ("object", BIG, "too big")],
    ids=["a file that is no picture", "an object that is no picture", "an object over 20 MB"],
)
async def test_what_cannot_be_restyled_is_refused_with_nothing_sent(
    kind: str,
    data: bytes,
    says: str,
    emulator: Emulator,
    store: Store,
    moto: S3Server,
    on_s3: Store,
    tmp_path: Path,
) -> None:
    if kind == "file":
        image = str(tmp_path / "a.jpg")
        Path(image).write_bytes(data)
    else:
        image = put(moto, f"sources/{uuid.uuid4().hex}", data)
    with pytest.raises(SourceError, match=says):
        await restyle(emulator.url, store if kind == "file" else on_s3, image)
    ledger = emulator.ledger()
    assert (ledger["calls"]["submit"], ledger["calls"]["upload"], ledger["spent"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("image", "kind", "says"),
    [
        ("s3://restyle/nothing.jpg", SourceError, "no such object: image s3://restyle/nothing.jpg"),
        ("s3://nowhere/a.jpg", SourceError, "no such object: image s3://nowhere/a.jpg"),
    ],
)
async def test_an_object_that_does_not_exist_is_refused(
    image: str, kind: type[SourceError], says: str, on_s3: Store
) -> None:
    with pytest.raises(kind) as caught:
        await identify(image, on_s3)
    assert caught.value.message == says
    assert not caught.value.retryable


async def test_a_file_that_changes_while_it_is_used_is_not_submitted(
    emulator: Emulator, store: Store, tmp_path: Path
) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(PHOTO.read_bytes())
    source = await identify(str(image), store)
    image.write_bytes(OTHER_PHOTO.read_bytes())
    await store.ensure_conditional_put()
    async with WaveSpeedClient("key", emulator.url) as client:
        with pytest.raises(SourceError, match="changed while it was in use"):
            await Publisher(client, store).url(source)
    assert calls(emulator) == 0
