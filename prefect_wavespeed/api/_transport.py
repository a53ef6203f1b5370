"""Bytes to and from the API and its CDN.

The key is put on requests to ``base_url``, one at a time, and redirects are not followed there; downloads
carry no key. No error of httpx leaves this file: it would hold the request, and with it the key.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr

from prefect_wavespeed import metrics
from prefect_wavespeed.api._shown import described
from prefect_wavespeed.api.answers import Reply
from prefect_wavespeed.api.base64_stream import LONG, Sieve, decode_json
from prefect_wavespeed.api.public_http import FAILURES, check_coding, client_beside
from prefect_wavespeed.api.urls import (
    NotPublicError,
    checked_base_url,
    proxy_for,
    trusted_authorities,
    without_query,
)
from prefect_wavespeed.errors import (
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    OutputError,
    UnavailableError,
    redact,
)
from prefect_wavespeed.version import package_version

_USER_AGENT = f"restyle/{package_version()}"
_HEADERS = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip"}

_ABOUT_LIMITS = re.compile(r"(?i)rate-?limit|^retry-after$")

# Raised before a connection is established. httpx's classes cannot be used for this: httpx-aiohttp raises
# ConnectTimeout also for a connection that was dropped after the request.
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
_NO_URL = (NotPublicError, httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects)


class Transport:
    """One pool of connections to the API and its CDN, for one event loop, and the only holder of the key.

    Args:
        api_key: the WaveSpeedAI key.
        base_url: where the API is: https, or http on loopback.
        max_connections: most connections open at once.

    Raises:
        ConfigurationError: the key is malformed, or the URL is not a safe place to send it.
    """

    def __init__(self, api_key: str | SecretStr, base_url: str, max_connections: int) -> None:
        key = (api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key).strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError("the WaveSpeed API key is empty or malformed")
        self._key = SecretStr(key)
        self._server_date: tuple[str, float] | None = None  # an answer's Date header, and our time then
        self.base_url, host = checked_base_url(base_url)
        limits = httpx.Limits(max_connections=max_connections)
        self._headers = httpx.Headers({**_HEADERS, "Authorization": f"Bearer {key}"})
        # Calls go to one host with one key, and need no redirects, cookies or mounts. A whole client
        # would take as long for those as for the request itself.
        trusted = trusted_authorities()
        self._api = AiohttpTransport(limits=limits, proxy=proxy_for(self.base_url, host), verify=trusted)
        self._cdn = client_beside(host, max_connections, headers={"User-Agent": _USER_AGENT}, limits=limits)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._cdn.aclose()

    def redact(self, text: object) -> str:
        """Return a text that is safe to show: without the key, signatures and line breaks."""
        return redact(text, self._key.get_secret_value())

    @property
    def clock_skew(self) -> timedelta | None:
        """How far the API's clock is ahead of ours, by its last answer; None where it had no Date."""
        if self._server_date is None:
            return None
        date, received = self._server_date
        try:
            return parsedate_to_datetime(date) - datetime.fromtimestamp(received, UTC)
        except (ValueError, TypeError):  # TypeError: it has no time zone
            return None

    async def exchange(self, method: str, path: str, *, seconds: float, **request: Any) -> Reply:
        """Send one request with the key and read the whole answer. Failures are returned, not raised.

        Args:
            method, path: what to call below ``base_url``.
            seconds: how long all of it may take.
            request: further arguments of ``httpx.Request``.
        """
        reply = Reply()
        try:
            async with asyncio.timeout(seconds):  # httpx has no timeout for the whole of a request
                response = await self._api.handle_async_request(
                    httpx.Request(
                        method,
                        _url(self.base_url + path),
                        headers=self._headers,
                        extensions={"timeout": _connecting(seconds)},
                        **request,
                    )
                )
                try:
                    headers = dict(response.headers.items())
                    reply.status, reply.retry_after = response.status_code, _retry_after(headers)
                    reply.limits = frozenset(name for name in headers if _ABOUT_LIMITS.search(name))
                    if date := headers.get("date"):
                        self._server_date = date, time.time()
                    reply.body, reply.pictures = await _document(response, headers)
                finally:
                    await response.aclose()
        except FAILURES as error:
            reply.failure = self.redact(described(error))
            reply.sent = not isinstance(error.__cause__ or error, _NEVER_CONNECTED)
        metrics.ANSWERS.labels(reply.status or "none").inc()
        return reply

    async def download(self, url: str, *, limit: int, seconds: float, stall_seconds: float) -> bytes:
        """Download a file without the key.

        Args:
            url: where it is; redirects are followed.
            limit: most bytes that it may have.
            seconds: how long all of it may take.
            stall_seconds: how long connecting, or the wait for the next bytes, may take.

        Raises:
            NotFoundError: the answer is 403, 404 or 410.
            OutputError: it could not be downloaded whole; not retryable when it is over the limit.
        """
        status: int | None = None
        gone = False
        try:
            async with asyncio.timeout(seconds), self._get(url, stall_seconds) as response:
                status = response.status_code
                if response.is_success:
                    return await _bounded(response, limit)
                problem = f"HTTP {status}"
                gone = 400 <= status < 500 and status not in (408, 425, 429)
        except FAILURES as error:
            problem = described(error)
            gone = isinstance(error.__cause__ or error, _NO_URL)
        if status in (403, 404, 410):
            raise NotFoundError(
                f"the output's URL has expired or does not exist (HTTP {status}): {without_query(url)}"
            )
        raise OutputError(self.redact(f"download failed: {problem}: {without_query(url)}"), gone=gone)

    async def send(
        self, method: str, url: str, data: bytes, *, headers: Mapping[str, str], seconds: float
    ) -> None:
        """Send a file without the key.

        Args:
            method, url: where it goes; redirects are not followed.
            data: its bytes.
            headers: to send with it.
            seconds: how long all of it may take.

        Raises:
            InvalidRequestError: it was refused with a 4xx.
            UnavailableError: it could not be sent, or any other answer.
        """
        status: int | None = None
        try:
            async with asyncio.timeout(seconds):
                response = await self._cdn.request(
                    method, url, content=data, headers=dict(headers), timeout=_timeouts(seconds)
                )
            status, problem = response.status_code, f"HTTP {response.status_code}"
            if response.is_success:
                return
        except FAILURES as error:
            problem = described(error)
        problem = self.redact(f"upload failed: {problem}: {without_query(url)}")
        if status is not None and 400 <= status < 500:
            raise InvalidRequestError(problem)
        raise UnavailableError(problem, status=status)

    async def status_of(self, url: str, *, seconds: float) -> int | None:
        """Return the status of a HEAD request without the key; None where there is no answer."""
        try:
            async with asyncio.timeout(seconds):
                response = await self._cdn.head(url, follow_redirects=True, timeout=_timeouts(seconds))
        except FAILURES:
            return None
        return response.status_code

    @asynccontextmanager
    async def _get(self, url: str, stall_seconds: float) -> AsyncIterator[httpx.Response]:
        async with self._cdn.stream(
            "GET",
            url,
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=_timeouts(stall_seconds),
        ) as response:
            yield response


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: ``Retry-After`` as seconds, or as a date by the server's own clock."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        if value.isdecimal():
            return float(value)
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: one of the dates has no time zone
        return None


async def _document(response: httpx.Response, headers: Mapping[str, str]) -> tuple[Any, Mapping[str, bytes]]:
    """A JSON answer, and the pictures that were in it.

    Raises:
        ValueError: it is not JSON, or absurdly long.
    """
    await check_coding(response)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) <= LONG and "content-encoding" not in headers:
        # too short to hold a picture that must be kept out of the text, and nothing is to be unpacked
        stream = cast("httpx.AsyncByteStream", response.stream)
        body = b"".join([chunk async for chunk in stream])
        return decode_json(body.decode("utf-8-sig", "replace")), {}
    sieve = Sieve()
    async for chunk in response.aiter_bytes():
        sieve.feed(chunk)
    return sieve.close()


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    """The whole body, checked against its announced length and the limit."""
    announced = response.headers.get("Content-Length", "")
    length = int(announced) if announced.isdecimal() else None
    buffer = BytesIO()
    async for chunk in response.aiter_bytes():
        if max(buffer.tell() + len(chunk), length or 0) > limit:
            raise OutputError(
                f"the output is larger than {limit / 1024 / 1024:g} MB", retryable=False, gone=True
            )
        buffer.write(chunk)
    if length is not None and response.num_bytes_downloaded != length:
        raise ValueError(f"received {response.num_bytes_downloaded} of {length} bytes")
    return buffer.getvalue()


_url = lru_cache(4_096)(httpx.URL)  # results are asked for several times, and each parse takes its time


@lru_cache(16)
def _connecting(seconds: float) -> Mapping[str, float | None]:
    """Timeouts until a connection is there; one for the whole of a request needs no other."""
    timeouts = _timeouts(seconds)
    return {"connect": timeouts.connect, "pool": timeouts.pool}


@lru_cache(16)
def _timeouts(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(10, seconds / 2), pool=seconds / 2)


class _NoQueries(logging.Filter):
    """Removes queries from the request lines that httpx logs: they hold signatures of URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(redact(a) if isinstance(a, httpx.URL) else a for a in record.args)
        return True


logging.getLogger("httpx").addFilter(_NoQueries())
