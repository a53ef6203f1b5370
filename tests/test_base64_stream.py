"""Base64 pictures in answers: decoded while they are received, and never in memory twice."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wavespeed import errors
from prefect_wavespeed.api.base64_stream import LONG, NotJsonError, Sieve, decode_json
from tests.support.clients import CREATED, client_of
from tests.support.raw_server import RawServer, answer, http


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("size", [1, 3, 1000, LONG, 1_000_001])
async def test_base64_outputs_are_decoded_and_urls_left_alone(size: int, prefix: str) -> None:
    picture = os.urandom(size)
    encoded = prefix + base64.b64encode(picture).decode()
    completed = {**CREATED, "status": "completed", "outputs": [encoded, "https://example.com/2.png", encoded]}
    plain = answer(completed)
    escaped = json.dumps({"code": 200, "data": completed}).replace("/", "\\/").replace("=", "\\u003d")
    async with RawServer(plain, http(200, escaped)) as server, client_of(server) as client:
        for _ in range(2):
            prediction = await client.result("p1")
            assert prediction.outputs == ["inline:0", "https://example.com/2.png", "inline:2"]
            assert [prediction.inline(output) for output in prediction.outputs] == [picture, None, picture]
            assert "inline" not in prediction.model_dump_json(exclude={"outputs"})


async def test_a_base64_output_is_never_in_memory_twice() -> None:
    size = 16 * 1024 * 1024
    encoded = base64.b64encode(bytes(size)).decode()
    said = answer({**CREATED, "status": "completed", "outputs": [encoded]})

    async def send(writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(said), 65536):
            writer.write(said[start : start + 65536])
            await writer.drain()

    async with RawServer(send) as server, client_of(server) as client:
        tracemalloc.start()
        try:
            prediction = await client.result("p1")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(prediction.inline("inline:0") or b"") == size
    # A growing buffer needs some room; the encoded text alone would be a third more on top.
    assert peak < 1.5 * size


def sieved(document: bytes, step: int) -> tuple[Any, Any]:
    sieve = Sieve()
    for start in range(0, len(document), step):
        sieve.feed(document[start : start + step])
    return sieve.close()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50, deadline=None)
@given(document=ANY_JSON, ascii_only=st.booleans(), step=st.integers(1, 9))
def test_the_sieve_changes_nothing_but_long_strings(document: Any, ascii_only: bool, step: int) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert sieved(text, step) == (json.loads(text), {})


@given(document=st.binary(max_size=200), step=st.integers(1, 9))
def test_the_sieve_takes_garbage_for_garbage(document: bytes, step: int) -> None:
    with contextlib.suppress(ValueError):
        sieved(document, step)


@pytest.mark.parametrize("step", [5, 7, 16384])
@pytest.mark.parametrize("size", [LONG, LONG + 1, LONG + 2])
def test_the_sieve_decodes_whatever_the_chunks(size: int, step: int) -> None:
    picture = os.urandom(size)
    for encoded in (
        base64.b64encode(picture),
        base64.b64encode(picture).rstrip(b"="),
        base64.urlsafe_b64encode(picture),
        base64.encodebytes(picture).replace(b"\n", b"\\r\\n").replace(b"\\r\\n", b"\n"),
        b"data:image/png;base64," + base64.b64encode(picture).replace(b"/", b"\\/").replace(b"+", b"\\u002B"),
    ):
        document, pictures = sieved(b'{"a": ["' + encoded + b'", "b"]}', step)
        assert document["a"][1] == "b"
        assert pictures[document["a"][0]] == picture


def test_a_long_text_that_is_not_base64_is_cut_off() -> None:
    said = 'a "long" story… ' * LONG
    document, pictures = sieved(json.dumps({"error": said, "id": "p1"}).encode(), 1000)
    assert document["id"] == "p1"
    assert said.startswith(document["error"])
    assert len(document["error"]) <= LONG + 1000
    assert not pictures


@pytest.mark.parametrize("text", [b'{"a": "', b'{"a": "\\u12', b'"\\uzzzz and so on"', b"", b'{"a": "b"'])
def test_half_a_document_is_no_document(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting|delimiter"):
        sieved(text, 3)


async def test_base64_that_breaks_off_in_garbage_is_no_answer() -> None:
    broken = base64.b64encode(bytes(LONG * 2)).decode() + "!!!!"
    said = answer({**CREATED, "status": "completed", "outputs": [broken]})
    async with RawServer(said) as server, client_of(server) as client:
        with pytest.raises(errors.UnavailableError):
            await client.result("p1")


@pytest.mark.parametrize("document", ["[" + "{}," * 60_000 + "1]", '{"outputs": [' + "[]," * 60_000 + "1]}"])
def test_a_short_text_of_very_many_parts_is_no_answer(document: str) -> None:
    with pytest.raises(NotJsonError, match="too many"):
        decode_json(document)
