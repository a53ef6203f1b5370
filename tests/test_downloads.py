"""Files without the key, whole or not at all."""

from __future__ import annotations

import asyncio
import gzip
import pickle
from pathlib import Path

import pytest

from prefect_wavespeed import errors
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.job import Job, NsfwRules, RunInfo, Source
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.steps.output_collector import OutputCollector
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.clients import CREATED, KEY, client_of, holds_no_key
from tests.support.raw_server import Answer, RawServer, answer, cut, drop, hang, http

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_expired_output_is_not_found(status: int) -> None:
    async with RawServer(http(status, "<html>")) as server, client_of(server) as client:
        with pytest.raises(errors.NotFoundError) as caught:
            await client.download(f"{server.url}/1.jpeg?signature=s")
    assert "signature" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        (http(404), True),
        (http(410), True),
        (http(200), False),
        (http(403), True),  # as S3 and many CDNs say it
        (http(405), False),
        (http(500), False),
        (drop, False),
        (hang, False),
        (b"garbage\r\n\r\n", False),
    ],
    ids=["404", "410", "200", "403", "405", "500", "dropped", "hangs", "garbage"],
)
async def test_an_upload_is_gone_only_where_that_is_said(said: Answer, gone: bool) -> None:
    async with (
        RawServer(said) as other,
        RawServer(http(302, Location=f"{other.url}/moved")) as server,
        client_of(server, timeout=0.3) as client,
    ):
        assert await asyncio.wait_for(client.is_gone(f"{server.url}/cat.jpg"), 3) is gone
        assert (set(server.heads), set(other.heads)) == ({"HEAD /cat.jpg"}, {"HEAD /moved"})
        assert not any(b"authorization" in request.lower() for request in server.requests + other.requests)
        assert await client.is_gone("not a url") is False


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "zstd", "deflate"])
async def test_an_answer_that_is_packed_more_than_once_by_gzip_is_not_unpacked(coding: str) -> None:
    bomb = gzip.compress(gzip.compress(bytes(1_000_000)))
    async with RawServer(http(200, bomb, Content_Encoding=coding)) as server, client_of(server) as client:
        with pytest.raises(errors.OutputError, match="Content-Encoding"):
            await client.download(f"{server.url}/1.jpeg")
        with pytest.raises(errors.UnavailableError, match="Content-Encoding"):
            await client.balance()


async def chunked_and_cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    "said",
    [
        cut(http(200, "picture"), 2),
        chunked_and_cut,
        http(500),
        http(429),
        http(304),
        drop,
        hang,
        b"garbage\r\n\r\n",
    ],
    ids=["cut", "chunked and cut", "500", "429", "304", "dropped", "hangs", "garbage"],
)
async def test_an_output_that_does_not_come_whole_may_be_tried_again(said: Answer) -> None:
    async with RawServer(said) as server, client_of(server, timeout=0.3) as client:
        with pytest.raises(errors.OutputError) as caught:
            await asyncio.wait_for(client.download(f"{server.url}/1.jpeg?signature=s"), 3)
    assert caught.value.retryable
    assert "signature" not in str(caught.value)
    holds_no_key(caught.value)


async def test_outputs_are_not_lost_where_a_later_answer_names_fewer_of_them(tmp_path: Path) -> None:
    picture = http(200, (EXAMPLES / "astronaut.jpg").read_bytes())
    async with RawServer(http(500)) as server, client_of(server) as client:
        outputs = [f"{server.url}/{number}.jpeg" for number in (1, 2)]
        completed = {**CREATED, "status": "completed"}
        server.answers += (answer({**completed, "outputs": outputs[:1]}), picture, picture)
        source = Source(uri="u", identity="u", name="cat.jpg", location="u")
        job = Job(source=source, params=ReduxParams(num_images=2))
        prediction = Prediction.model_validate({**completed, "outputs": outputs})
        collector = OutputCollector(
            client, directory_store(tmp_path), job, prediction, RunInfo(package_version="test"), NsfwRules()
        )
        with instant_retries():
            assert len((await collector.collect()).outputs) == 2
    assert [head.split("/")[-1] for head in server.heads] == ["1.jpeg", "result", "1.jpeg", "2.jpeg"]


@pytest.mark.parametrize(("cut", "is_stored"), [(0, True), (2, False)], ids=["whole", "cut short"])
async def test_a_whole_output_that_does_not_decode_here_is_stored_when_it_came_twice(
    tmp_path: Path, cut: int, is_stored: bool
) -> None:
    data = (EXAMPLES / "astronaut.jpg").read_bytes()
    deep = data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")  # 12 bits a sample
    assert deep != data
    picture = http(200, deep[: len(deep) - cut])
    async with RawServer(picture) as server, client_of(server) as client:
        completed = {**CREATED, "status": "completed", "outputs": [f"{server.url}/1.jpeg"]}
        for _ in range(5):
            server.answers += (answer(completed), picture)
        job = Job(source=Source(uri="u", identity="u", name="cat.jpg", location="u"))
        store = directory_store(tmp_path)
        run = RunInfo(package_version="test")
        collector = OutputCollector(
            client, store, job, Prediction.model_validate(completed), run, NsfwRules(), lambda *_: None
        )
        with instant_retries():
            if not is_stored:
                with pytest.raises(errors.OutputError, match="cut short"):
                    await collector.collect()
                return
            collected = await collector.collect()
    assert [warning.code for warning in collected.warnings] == ["unusual"]
    assert await store.get(str(collected.outputs[0].key)) == deep


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(65536))
        await writer.drain()


@pytest.mark.parametrize("said", [http(200, b"x" * 1001), endless], ids=["announced", "endless"])
async def test_an_output_over_the_limit_is_given_up_for_good(said: Answer) -> None:
    async with RawServer(said) as server, client_of(server) as client:
        with pytest.raises(errors.OutputError, match="larger than") as caught:
            await asyncio.wait_for(client.download(f"{server.url}/1.jpeg", limit=1000), 3)
    assert not caught.value.retryable
    assert not pickle.loads(pickle.dumps(caught.value)).retryable


async def test_an_output_of_just_the_limit_is_taken() -> None:
    async with RawServer(http(200, b"x" * 1000)) as server, client_of(server) as client:
        assert await client.download(f"{server.url}/1.jpeg", limit=1000) == b"x" * 1000


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/1", "file:///etc/passwd", "inline:0", "", "http://", "not a url"]
)
async def test_only_http_is_downloaded(url: str) -> None:
    async with WaveSpeedClient(KEY) as client:
        with pytest.raises(errors.OutputError):
            await client.download(url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1", "0.0.0.0"]
)
async def test_the_api_cannot_make_a_worker_open_what_is_not_public(host: str) -> None:
    async with RawServer(http(200, b"secret")) as private:
        port = private.url.rpartition(":")[2]
        async with WaveSpeedClient(KEY, "https://api.example.com") as client:
            for url in (f"https://{host}:{port}/1", f"http://{host}:{port}/1"):
                with pytest.raises(errors.OutputError, match="not a public https URL"):
                    await client.download(url)
                with pytest.raises(errors.UnavailableError, match="not a public https URL"):
                    await client._transport.send("PUT", url, b"picture", headers={}, seconds=5)
                assert not await client.is_gone(url)
        assert not private.requests


async def test_a_redirect_is_checked_as_well() -> None:
    async with (
        RawServer(http(302, Location="http://10.0.0.1/1.jpeg")) as server,
        client_of(server) as client,
    ):
        with pytest.raises(errors.OutputError, match="not a public https URL"):
            await client.download(f"{server.url}/1.jpeg")


async def test_a_redirect_to_a_file_or_in_a_circle_is_not_followed() -> None:
    async with RawServer(http(302, Location="file:///etc/passwd")) as server, client_of(server) as client:
        with pytest.raises(errors.OutputError):
            await client.download(f"{server.url}/1.jpeg")
    async with RawServer(http(302, Location="/1.jpeg")) as server, client_of(server) as client:
        with pytest.raises(errors.OutputError):
            await client.download(f"{server.url}/1.jpeg")
