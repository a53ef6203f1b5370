"""What `restyle gallery` serves: the pictures of one run, to the browser that was given its address."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from prefect_wavespeed.batch.report.rows import ReportRow
from prefect_wavespeed.deployments.gallery_server import Gallery
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.s3_servers import S3Server
from tests.test_report import FOLDER, row, write


@pytest.fixture(params=["directory", "moto"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, moto: S3Server) -> Store:
    """An output with the report of a run, its pictures, and one of another run."""
    if request.param == "directory":
        store = directory_store(tmp_path / "out")
    else:
        store = s3_store(moto.bucket, uuid.uuid4().hex, moto.session(), endpoint_url=moto.endpoint)
    moto.client().put_object(Bucket=moto.bucket, Key="in/1.jpg", Body=b"the source")
    mine = row(1, store, image=f"s3://{moto.bucket}/in/1.jpg", outputs=[store.uri_of("images/a b-1/1.jpeg")])
    await write(store, [mine, ReportRow(row=2, image=f"s3://{moto.bucket}/in/1.jpg", status="invalid")])
    for name in ("a b-1", "other-2"):
        await store.put(f"images/{name}/1.jpeg", picture(), "image/jpeg")
    return store


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "JPEG")
    return data.getvalue()


@asynccontextmanager
async def browser(gallery: Gallery, host: str = "127.0.0.1:8123") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(gallery.app())
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        yield client


async def test_the_page_and_the_pictures_of_the_run_are_served(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: S3Server
) -> None:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    gallery = await Gallery.read(store, FOLDER, tmp_path)
    async with browser(gallery) as client, httpx.AsyncClient() as elsewhere:
        home = await client.get(f"{gallery.root}/")
        page = await client.get(home.headers["location"])
        assert page.text.startswith("<!doctype html>")
        wanted = {"../../../images/a%20b-1/1.jpeg": picture(), "../../../source/1": b"the source"}
        for path, expected in wanted.items():
            answer = await client.get(page.url.join(path))
            if answer.is_redirect:
                answer = await elsewhere.get(answer.headers["location"])
            else:
                assert "sandbox" in answer.headers["content-security-policy"], "a file is no page of ours"
            assert answer.content == expected
        download = await client.get(f"{gallery.root}/images/a%20b-1/1.jpeg?download")
        assert (download.content, download.headers["content-disposition"]) == (picture(), "attachment")


async def test_nothing_else_is_served_and_to_nobody_else(store: Store, tmp_path: Path) -> None:
    gallery = await Gallery.read(store, FOLDER, tmp_path)
    refused = (
        *("images/other-2/1.jpeg", "images/a%20b-1/2.jpeg", "images/", "source/2", "source/3", "source/x"),
        *("images/../images/other-2/1.jpeg", "..%2f..%2fetc/passwd", "%2fetc/passwd"),
    )
    async with browser(gallery) as client:
        assert {(await client.get(f"{gallery.root}/{path}")).status_code for path in refused} == {404}
        assert (await client.get(f"/{FOLDER}/gallery.html")).status_code == 404, "without the secret"
        assert (await client.post(f"{gallery.root}/")).status_code == 405
    for host in ("evil.example:8123", "localhost.evil.example", "127.0.0.1.evil.example"):
        async with browser(gallery, host) as client:
            assert (await client.get(f"{gallery.root}/")).status_code == 400, "after DNS rebinding"


async def test_a_run_that_has_not_ended_has_no_gallery(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no gallery\.html: a batch writes it when it ends"):
        await Gallery.read(store, "runs/dt=2026-01-01/other", tmp_path)
