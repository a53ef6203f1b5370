"""``size="source"``: outputs that have the shape of their source, decided before the job has its key."""

from __future__ import annotations

import uuid
from io import BytesIO
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from pydantic import ValidationError

from prefect_wavespeed.api.models import ReduxParams, ReduxRequest
from prefect_wavespeed.batch.created_object import find
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.errors import SourceError
from prefect_wavespeed.job import Job, Source
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.sources.sizes import size_like
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.emulator_process import Emulator
from tests.support.fake_batch import FakeApi, carry_out
from tests.support.objects import World
from tests.support.raw_server import RawServer, http
from tests.support.s3_servers import S3Server

LIKE_SOURCE = ReduxParams(size="source")


def picture(width: int, height: int, kind: str = "JPEG", *, orientation: int = 1, filler: int = 0) -> bytes:
    """A photograph, turned as a camera says it; filler comes before the bytes that tell its size."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = BytesIO()
    profile = {"icc_profile": bytes(filler)} if filler else {}
    Image.new("RGB", (width, height), "teal").save(data, kind, exif=exif, **profile)
    return data.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (4032, 3024, "1152*864"),
        (3024, 4032, "864*1152"),
        (300, 200, "1248*832"),
        (1920, 1080, "1360*768"),
        (1080, 1350, "896*1120"),
        (10, 10, "1024*1024"),
        (9000, 300, "1536*256"),
        (1, 9000, "256*1536"),
        (1013, 977, "1040*1008"),
        (2000, 411, "1536*320"),
    ],
)
def test_a_size_has_the_shape_of_the_source_within_the_limits(width: int, height: int, size: str) -> None:
    assert size_like(width, height) == size
    assert ReduxParams(size=size).size == size


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (picture(40, 30), "1152*864"),
        (picture(40, 30, orientation=6), "864*1152"),
        (picture(40, 30, orientation=3), "1152*864"),
        (picture(40, 30, "PNG", orientation=8), "864*1152"),
        (picture(40, 30, "WEBP", orientation=5), "864*1152"),
        (picture(40, 30, "TIFF"), "1152*864"),
        (picture(40, 30, orientation=6, filler=200_000), "864*1152"),
    ],
    ids=["jpeg", "turned", "upside down", "png", "webp", "tiff", "far into the file"],
)
async def test_it_is_the_same_size_wherever_the_source_is(
    data: bytes, size: str, store: Store, tmp_path: Path, moto: S3Server
) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    key = f"{uuid.uuid4().hex}.jpg"
    moto.client().put_object(Bucket=moto.bucket, Key=key, Body=data)
    on_s3 = s3_store(moto.bucket, "out", moto.session(), endpoint_url=moto.endpoint)
    async with RawServer(http(200, data)) as server:
        jobs = [
            await make_job(str(tmp_path / "a.jpg"), LIKE_SOURCE, 0, store),
            await make_job(f"{server.url}/a.jpg", LIKE_SOURCE, 0, store),
            await make_job(f"s3://{moto.bucket}/{key}", LIKE_SOURCE, 0, on_s3),
        ]
    assert [job.params.size for job in jobs] == [size] * 3


async def test_little_of_a_picture_on_the_web_is_fetched_and_its_job_is_that_with_the_numbers(
    store: Store,
) -> None:
    data = picture(40, 30) + bytes(5_000_000)
    async with RawServer(http(206, data[: 1 << 16])) as server:
        job = await make_job(f"{server.url}/a.jpg?X-Amz-Signature=s", LIKE_SOURCE, 0, store)
        (request,) = server.requests
        assert b"range: bytes=0-65535\r\n" in request.lower()
        assert b"authorization" not in request.lower()
        explicit = await make_job(f"{server.url}/a.jpg", ReduxParams(size="1152*864"), 0, store)
    assert job.key == explicit.key
    assert job.request("https://example.com/a.jpg").size == "1152*864"


async def test_a_row_whose_source_cannot_be_read_is_named_and_nothing_is_submitted(
    tmp_path: Path,
) -> None:
    (tmp_path / "1.jpg").write_bytes(picture(40, 30))
    async with RawServer(http(403)) as server:
        manifest = tmp_path / "a.csv"
        manifest.write_text(f"image,size\n{tmp_path}/1.jpg,source\n{server.url}/2.jpg?sig=x,source\n")
        options, api = BatchOptions(on_bad_row="skip", max_failed=1), FakeApi()
        carried = await carry_out(api, tmp_path / "out", str(manifest), options)
    assert carried.statuses == ["stored", "failed"]
    message = f"HTTP 403: image {server.url}/2.jpg: give its size as W*H"
    assert (carried.rows[1].error_type, carried.rows[1].error_message) == ("SourceError", message)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http(404), "HTTP 404"),
        (http(503), "HTTP 503"),
        (http(429), "HTTP 429"),
        (http(200, b"<html>"), "not an image"),
        (http(302, Location="http://example.com/a.jpg"), "cannot be fetched|unencrypted"),
        (http(302, Location="https://10.0.0.1/a.jpg"), "10.0.0.1 is not a public address"),
        (http(302, Location="https://169.254.169.254/a.jpg"), "not a public address"),
        (b"nonsense\r\n\r\n", "cannot be fetched"),
    ],
)
async def test_what_a_server_says_instead_of_a_picture_is_one_error(
    answer: bytes, says: str, store: Store
) -> None:
    async with RawServer(answer) as server:
        with pytest.raises(SourceError, match=says) as caught:
            await make_job(f"{server.url}/a.jpg", LIKE_SOURCE, 0, store)
    assert caught.value.retryable is (answer in (http(503), http(429), b"nonsense\r\n\r\n"))


async def test_one_error_of_a_server_on_the_web_refuses_no_manifest(tmp_path: Path) -> None:
    data = picture(40, 30)
    async with RawServer(http(503), http(200, data)) as server:
        manifest = tmp_path / "a.csv"
        manifest.write_text(f"image,size\n{server.url}/1.jpg,source\n")
        with instant_retries():
            carried = await carry_out(FakeApi(), tmp_path / "out", str(manifest), BatchOptions())
    assert carried.statuses == ["stored"]


async def test_a_new_object_is_restyled_in_its_shape_and_one_that_is_no_picture_is_refused(
    moto: S3Server, emulator: Emulator
) -> None:
    world = World(moto, emulator, uuid.uuid4().hex)
    created = world.put("a.jpg", picture(40, 30, orientation=6))
    found = await find(created, world.watched, LIKE_SOURCE, (), world.store)
    assert found.job
    assert found.job.params.size == "864*1152"
    broken = world.put("b.jpg", b"no picture")
    found = await find(broken, world.watched, LIKE_SOURCE, (), world.store)
    assert found.job
    assert "not an image" in (found.refused or "")


def test_no_request_is_without_numbers() -> None:
    source = Source(uri="s3://b/a", identity="a", name="a", location="s3://b/a")
    with pytest.raises(ValidationError, match="size is in numbers"):
        Job(source=source, params=LIKE_SOURCE)
    with pytest.raises(ValidationError, match=r"must be W\*H"):
        ReduxRequest(size="source", image="https://example.com/a.jpg")
