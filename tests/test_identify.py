"""Which picture an image means, without any server: URLs, objects and files; and what none can mean."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from prefect_wavespeed.errors import SourceError
from prefect_wavespeed.job import Job
from prefect_wavespeed.sources.files import read_file
from prefect_wavespeed.sources.identify import check_image, identify, read_source
from prefect_wavespeed.sources.objects import object_source
from prefect_wavespeed.sources.urls import url_source
from prefect_wavespeed.storage.open_store import directory_store
from prefect_wavespeed.storage.store import Store
from tests.support.engine import PHOTO

OTHER_PHOTO = PHOTO.with_name("coffee.jpg")
PICTURE = "https://example.com/pictures/a%20b.jpg"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return directory_store(tmp_path / "out")


def test_a_url_is_identified_without_its_signature_and_passed_on_with_it() -> None:
    signed = f"{PICTURE}?v=2&X-Amz-Signature=secret"
    source = url_source(signed)
    assert source.identity == source.uri == f"{PICTURE}?v=2"
    assert (source.location, source.name) == (signed, "a b.jpg")
    assert "secret" not in repr(source)


def test_a_new_signature_is_the_same_job_and_another_query_another_one() -> None:
    urls = [f"{PICTURE}?X-Amz-Signature=1&X-Amz-Date=1", f"{PICTURE}?X-Amz-Signature=2&X-Amz-Date=2", PICTURE]
    assert len({Job(source=url_source(url)).key for url in urls}) == 1
    others = [f"{PICTURE}?page=1", f"{PICTURE}?page=2", f"{PICTURE}?expires=1", PICTURE.replace("a%", "A%")]
    assert len({Job(source=url_source(url)).key for url in [*others, PICTURE]}) == 5


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/a/b.jpg", "b.jpg"),
        ("https://example.com/a/b/", "b"),
        ("https://example.com", "example.com"),
        ("http://127.0.0.1:8080/%C3%A9t%C3%A9.png", "été.png"),
    ],
)
def test_a_url_has_a_name(url: str, name: str) -> None:
    assert url_source(url).name == name


@pytest.mark.parametrize(
    ("etag", "size", "mark"),
    [
        ('"0f"', 12, "etag=0f&size=12"),
        ("0f", 12, "etag=0f&size=12"),  # as notifications have it
        ('W/"0f"', 12, "etag=0f&size=12"),  # as a proxy hands it on
        (None, None, "etag="),
    ],
)
def test_an_object_is_its_uri_with_its_etag_and_size(etag: str | None, size: int | None, mark: str) -> None:
    source = object_source("s3://bucket/a/b.jpg", etag, size)
    assert source.identity == f"s3://bucket/a/b.jpg#{mark}"
    assert (source.uri, source.name) == ("s3://bucket/a/b.jpg", "b.jpg")


async def test_a_file_is_its_bytes_and_keeps_the_first_name_they_had(store: Store, tmp_path: Path) -> None:
    copy, changed = tmp_path / "copy of it.jpg", tmp_path / "astronaut.jpg"
    copy.write_bytes(PHOTO.read_bytes())
    changed.write_bytes(OTHER_PHOTO.read_bytes())
    first, second, third = [await identify(str(path), store) for path in (PHOTO, copy, changed)]
    sha256 = hashlib.sha256(PHOTO.read_bytes()).hexdigest()
    assert first.identity == second.identity == f"sha256:{sha256}" != third.identity
    assert (first.sha256, first.name, second.name) == (sha256, PHOTO.name, PHOTO.name)
    assert Job(source=first).name == Job(source=second).name
    assert second.uri == copy.as_uri()


async def test_a_source_is_read_where_it_is_a_file_and_not_where_it_is_a_url(store: Store) -> None:
    assert await read_source(await identify(str(PHOTO), store), store) == PHOTO.read_bytes()
    assert await read_source(await identify(PICTURE, store), store) is None


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("", "image is empty: use an https URL"),
        ("  ", "image is empty: use an https URL"),
        ("a\x00.jpg", "control character: image a\\u0000.jpg"),
        ("a\udce9.jpg", "control character: image "),
        ("s3://", "no bucket: image s3://: use s3://bucket/key"),
        ("s3:///bucket/key", "mistyped URL: image s3:///bucket/key: did you mean s3://bucket/key?"),
        ("s3://bucket", "no key: image s3://bucket: use s3://bucket/key"),
        ("http://example.com/a.jpg", "unencrypted URL: image http://example.com/a.jpg"),
        ("ftp://example.com/a.jpg", "unsupported scheme ftp://: image ftp://example.com/a.jpg"),
        (
            "https://example.com/a?query-sha256=0123456789abcdef",
            "shortened for display: image https://example.com/a?",
        ),
        ("https:///a.com/b", "mistyped URL: image https:///a.com/b: did you mean https://a.com/b?"),
        ("file:///a/b%20c.jpg", "file URL: image file:///a/b%20c.jpg: use the path /a/b c.jpg"),
        ("file:/a/b.jpg", "file URL: image file:/a/b.jpg: use the path /a/b.jpg"),
        ("https://example.com:0/a.jpg", "no host in the URL: image "),
        ("https://exa mple.com/a.jpg", "exa mple.com is no host: image https://exa mple.com/a.jpg"),
        ("https://example.com:99999/a.jpg", "invalid URL: image https://example.com:99999/a.jpg"),
        ("https://[::1/a.jpg?token=secret", "invalid URL: image https://[::1/a.jpg"),
        ("https://user:secret@example.com/a.jpg", "password in the URL: image https://example.com/a.jpg"),
    ],
)
async def test_what_can_mean_no_picture_is_refused_in_one_line_without_its_secrets(
    image: str, says: str, store: Store
) -> None:
    with pytest.raises(SourceError) as caught:
        check_image(image)
    assert caught.value.message.startswith(says)
    assert "\n" not in caught.value.message
    assert "secret" not in caught.value.message
    assert not caught.value.retryable
    with pytest.raises(SourceError):
        await identify(image, store)


@pytest.mark.parametrize(
    "image", ["a.jpg", "a b/été.jpg", "s3://bucket/key", "https://example.com", "~/a.jpg"]
)
def test_what_could_mean_a_picture_passes_unseen(image: str) -> None:
    check_image(image)


@pytest.mark.parametrize(
    ("key", "says"),
    [("a//b.jpg", "empty part"), ("../b.jpg", "empty part"), ("a/", "empty part"), ("./a", "empty part")],
)
async def test_a_key_that_obstore_would_read_as_another_is_refused(key: str, says: str, store: Store) -> None:
    with pytest.raises(SourceError, match=says):
        await identify(f"s3://bucket/{key}", store)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("gone.jpg", None, "no such file: image "),
        (".", None, "directory instead of a picture: image "),
        ("empty.jpg", b"", "not an image but an empty file: image "),
        ("text.jpg", b"<html>not a picture</html>", "not an image but a web page: image "),
        ("half.jpg", b"\xff\xd8\xff", "damaged jpeg image: image "),
        ("big.jpg", PHOTO.read_bytes() + bytes(20 * 2**20), "too big (20."),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused(
    name: str, data: bytes | None, says: str, store: Store, tmp_path: Path
) -> None:
    image = tmp_path / name
    if data is not None:
        image.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        await identify(str(image), store)
    assert caught.value.message.startswith(says)
    assert not await store.list("")


async def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", denied)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"^Permission denied: image .*a\.jpg cannot be read$"):
        await read_file(str(tmp_path / "a.jpg"))
