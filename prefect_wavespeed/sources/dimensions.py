"""The width and height of a source, for requests whose size follows it. Little of it is read."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import httpx

from prefect_wavespeed.api.public_http import FAILURES, MAY_PASS, public_client
from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.job import Source
from prefect_wavespeed.quality.formats import upright_size
from prefect_wavespeed.quality.verify import MAX_SOURCE_BYTES, verify_source
from prefect_wavespeed.sources.files import read_file
from prefect_wavespeed.sources.objects import read_beginning
from prefect_wavespeed.storage.store import Store

_BEGINNING = 1 << 16  # bytes: nearly every picture says its size there
_MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_GIVE_IT = "give its size as W*H"


async def dimensions(source: Source, store: Store) -> tuple[int, int]:
    """Width and height of a source in pixels, as it is seen: a photograph taken upright is upright.

    Args:
        source: the picture. Of one on the web or in S3 the first bytes are fetched, and the rest if need be.
        store: whose credentials read S3.

    Raises:
        SourceError: it cannot be read, or is no image; retryable where a server on the web is to blame.
        StoreError: the server of an S3 source cannot be reached now.
    """
    for limit in (_BEGINNING, MAX_SOURCE_BYTES):
        data = await _read(source, limit, store)
        if found := await asyncio.to_thread(upright_size, data):
            return found
        if len(data) < limit:
            break
    verify_source(data, f"image {source.uri}")
    raise SourceError(f"its width and height cannot be read: image {source.uri}: {_GIVE_IT}")


async def _read(source: Source, limit: int, store: Store) -> bytes:
    scheme, separator, _ = source.location.partition("://")
    if not separator:
        return await read_file(source.location)
    if scheme.lower() == "s3":
        return await read_beginning(source, limit, store)
    return await _fetch(source, limit)


async def _fetch(source: Source, limit: int) -> bytes:
    """The first bytes behind a URL, whether or not its server serves ranges; without the API key."""
    headers = {"Range": f"bytes=0-{limit - 1}", "Accept-Encoding": "identity"}
    data = bytearray()
    try:
        async with (
            public_client(httpx.URL(source.location).host, follow_redirects=True, timeout=30) as http,
            http.stream("GET", source.location, headers=headers) as response,
        ):
            status = response.status_code
            if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                passes = status in _MAY_PASS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
                raise SourceError(f"HTTP {status}: image {source.uri}: {_GIVE_IT}", retryable=passes)
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) >= limit:
                    break
    except FAILURES as error:
        reason = redact(error) or type(error).__name__
        raise SourceError(
            f"cannot be fetched ({reason}): image {source.uri}: {_GIVE_IT}",
            retryable=isinstance(error, MAY_PASS),
        ) from None
    return bytes(data[:limit])
