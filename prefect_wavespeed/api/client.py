"""The WaveSpeedAI v3 API, one method a call.

Safe by construction: the key is put on requests to ``base_url`` one at a time and redirects are not
followed there; downloads carry no key; no error holds a request, a response or a header.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import BytesIO
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport, HttpxAiohttpClient
from pydantic import BaseModel, Field, FiniteFloat, SecretStr

from prefect_wavespeed import metrics
from prefect_wavespeed.api.base64_stream import LONG, Sieve
from prefect_wavespeed.api.models import MODEL, BillingsPage, HistoryPage, Prediction, Quote, ReduxRequest
from prefect_wavespeed.errors import (
    AmbiguousSubmissionError,
    AuthenticationError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    OutputError,
    RateLimitedError,
    RestyleError,
    UnavailableError,
    redact,
)
from prefect_wavespeed.settings import get_settings
from prefect_wavespeed.version import package_version

MAX_DOWNLOAD = 50 * 1024 * 1024
_TRANSFER_SECONDS = 300  # for a whole upload or download
_LOOK_SECONDS = 5  # to see whether an upload is still there
_REST_SECONDS = 1.0  # after a 429 that does not say how long

_USER_AGENT = f"restyle/{package_version()}"

_HEADERS = {"User-Agent": _USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}

_Answer = TypeVar("_Answer", bound=BaseModel)

# httpx-aiohttp lets some of aiohttp's own errors through, and the sieve says ValueError to garbage.
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError)
# Raised before a connection stands. httpx's names do not tell: httpx-aiohttp calls a connection that
# was dropped after the request a ConnectTimeout, too.
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)

_CREDITS = re.compile(r"(?i)\bcredits?\b|\b(insufficient|low|no|not enough) (balance|funds)\b|\btop.?up\b")
_URL = re.compile(r"https?://\S+")
_FIELD = r"\b({})\b".format("|".join(sorted(ReduxRequest.model_fields, key=len, reverse=True)))
_QUOTED_FIELD = re.compile(f"[\"'`]{_FIELD}[\"'`]")
_NAMED_FIELD = re.compile(_FIELD)

_BAD_PARAMETER = (1400, 1401, 1402)  # WaveSpeed's own codes, where an envelope holds one instead of 400

# When this process may submit again after a 429, by base URL, on the monotonic clock.
_resting: dict[str, float] = {}


class WaveSpeedClient:
    """An asynchronous client, with one pool of connections for the API and its CDN.

    Belongs to one event loop; close it with ``async with`` or ``aclose()``.

    Every call but ``submit``, ``download`` and ``is_gone`` raises the same errors: AuthenticationError
    (401, 403), InsufficientCreditsError (402, or a message naming credits), InvalidRequestError (other
    4xx), NotFoundError (404), RateLimitedError (429), and UnavailableError for a 5xx, a network error, a
    timeout, or an answer that makes no sense.

    Args:
        api_key: the WaveSpeedAI key.
        base_url: where the API is: https, or http on loopback.
        submit_timeout: seconds that a whole ``submit`` may take.
        timeout: seconds that any other call may take; uploads and downloads may take longer.
        max_connections: most connections open at once.

    Raises:
        ConfigurationError: the key is no key, or the URL is not a safe place to send it.
    """

    def __init__(
        self,
        api_key: str | SecretStr,
        base_url: str = "https://api.wavespeed.ai",
        *,
        submit_timeout: float | None = None,
        timeout: float = 30,
        max_connections: int = 256,
    ) -> None:
        key = (api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key).strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError("the WaveSpeed API key is empty, or holds characters that no key has")
        self._auth = _Key(key)
        self._told_time: tuple[str, float] | None = None  # its Date, and our time then
        self.base_url, host = _checked(base_url)
        self.submit_timeout = (
            get_settings().submit_timeout_seconds if submit_timeout is None else submit_timeout
        )
        self.timeout = timeout
        limits = httpx.Limits(max_connections=max_connections)
        # Calls go to one place, with one key, and nowhere else: redirects, cookies and mounts, for which a
        # client takes as much time again as for the request, are what they must not have.
        self._api = AiohttpTransport(limits=limits, proxy=_proxy_for(self.base_url, host))
        self._cdn = HttpxAiohttpClient(
            headers={"User-Agent": _USER_AGENT},
            limits=limits,
            event_hooks={"request": [_without_body]},
            # A proxy from the environment must not get what is meant for loopback, in the clear.
            mounts={f"all://[{host}]" if ":" in host else f"all://{host}": None}
            if is_loopback(host)
            else None,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a WaveSpeedClient holds a key and connections: it cannot be pickled")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.aclose()
        await self._cdn.aclose()

    @property
    def clock_skew(self) -> timedelta | None:
        """How far the API's clock is ahead of ours, by its last answer; None where it told no time."""
        if self._told_time is None:
            return None
        date, here = self._told_time
        try:
            return parsedate_to_datetime(date) - datetime.fromtimestamp(here, UTC)
        except (ValueError, TypeError):  # TypeError: it has no time zone
            return None

    async def submit(
        self,
        request: ReduxRequest,
        *,
        webhook_url: str | None = None,
        in_time: Callable[[], bool] = lambda: True,
    ) -> Prediction:
        """Submit a request with exactly one POST, and return the prediction that it created.

        After a 429 all submissions of this process to this API rest as long as it says. The whole
        call, rest included, takes at most ``submit_timeout`` seconds; a longer rest is a RateLimitedError
        at once, with nothing sent.

        Args:
            request: what to do.
            webhook_url: https URL that is told when the prediction has ended.
            in_time: asked just before sending; when it says no, nothing is sent (RateLimitedError).

        Raises:
            InvalidRequestError, AuthenticationError, InsufficientCreditsError, NotFoundError,
            RateLimitedError: refused, nothing was created.
            UnavailableError: no connection came about, nothing was sent.
            AmbiguousSubmissionError: anything else; the prediction may exist.
        """
        seconds = await self._rest()
        if seconds <= 0 or not in_time():
            raise RateLimitedError("submissions rested for too long: nothing was sent", retry_after=0.0)
        doubt: str | None = None
        outcome = "unanswered"
        try:
            prediction = await self._call(
                "POST",
                f"/api/v3/{MODEL}",
                Prediction,
                seconds=seconds,
                params={"webhook": webhook_url} if webhook_url else None,
                json=request.model_dump(),
            )
            outcome = "accepted"
            return prediction
        except RateLimitedError as error:
            outcome = "rate_limited"
            rest = _REST_SECONDS if error.retry_after is None else error.retry_after
            _resting[self.base_url] = max(_resting.get(self.base_url, 0), time.monotonic() + rest)
            raise
        except UnavailableError as error:
            outcome = "unanswered" if error.sent else "unsent"
            if not error.sent:
                raise
            doubt = error.message
        except RestyleError:
            outcome = "refused"
            raise
        finally:
            metrics.SUBMISSIONS.labels(outcome).inc()
        raise AmbiguousSubmissionError(f"{doubt}; the prediction may exist and be billed")

    async def result(self, prediction_id: str) -> Prediction:
        """Return a prediction as it is now. NotFoundError when the API does not know its id."""
        path = f"/api/v3/predictions/{quote(prediction_id, safe='')}/result"
        return await self._call("GET", path, Prediction, prediction_id=prediction_id)

    async def history(
        self,
        *,
        page: int = 1,
        page_size: int = 100,
        model: str | None = None,
        status: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        include_inputs: bool = False,
    ) -> HistoryPage:
        """Return one page of the last 7 days' predictions, newest first; the times must be aware."""
        query: dict[str, Any] = {"page": page, "page_size": page_size}
        query |= {"model": model} if model else {}
        query |= {"status": status} if status else {}
        query |= {"created_after": _iso(created_after)} if created_after else {}
        query |= {"created_before": _iso(created_before)} if created_before else {}
        query |= {"include_inputs": True} if include_inputs else {}
        return await self._call("POST", "/api/v3/predictions", HistoryPage, json=query)

    async def delete(self, prediction_ids: Sequence[str]) -> int:
        """Delete predictions and return how many were deleted."""
        body = {"ids": list(prediction_ids)}
        return (await self._call("POST", "/api/v3/predictions/delete", _Deleted, json=body)).deleted_count

    async def balance(self) -> float:
        """Return the account's balance in USD."""
        try:
            return (await self._call("GET", "/api/v3/balance", _Balance)).balance
        except NotFoundError:  # the documentation names both paths
            return (await self._call("GET", "/api/v3/account/balance", _Balance)).balance

    async def price(self, request: ReduxRequest) -> Quote:
        """Return what a request would cost, discounts included. Creates nothing."""
        body = {"model_id": MODEL, "inputs": request.model_dump()}
        try:
            price = await self._call("POST", "/api/v3/model/price", _Price, json=body)
            return Quote(usd=price.discounted_price or price.price, currency=price.currency or "USD")
        except NotFoundError:
            unit = await self._call("POST", "/api/v3/model/pricing", _UnitPrice, json={"model_id": MODEL})
            return Quote(usd=unit.unit_price * request.num_images, currency=unit.currency or "USD")

    async def billings(
        self,
        *,
        page: int = 1,
        page_size: int = 100,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
    ) -> BillingsPage:
        """Return one page of what the account was billed, oldest first; the times must be aware."""
        query: dict[str, Any] = {"page": page, "page_size": page_size, "sort": "created_at ASC"}
        query |= {"start_time": _milliseconds(start_time)} if start_time else {}
        query |= {"end_time": _milliseconds(end_time)} if end_time else {}
        return await self._call("POST", "/api/v3/billings/search", BillingsPage, json=query)

    async def upload(self, filename: str, data: bytes, content_type: str) -> str:
        """Upload a picture (up to 20 MB, kept for 7 days) and return the URL to submit it by."""
        file = {"file": (filename, data, content_type)}
        path = "/api/v3/media/upload/binary"
        return (await self._call("POST", path, _Upload, seconds=_TRANSFER_SECONDS, files=file)).download_url

    async def webhook_secret(self) -> SecretStr:
        """Return the secret that signs this key's webhooks."""
        return (await self._call("GET", "/api/v3/webhook/secret", _Secret)).secret

    async def download(self, url: str, *, limit: int = MAX_DOWNLOAD) -> bytes:
        """Download an output, without the key, and return its bytes: all of them, and at most ``limit``.

        Raises:
            NotFoundError: the URL has expired (403, 404, 410); the result call gives a fresh one.
            OutputError: it could not be downloaded whole; not retryable when it is over the limit.
        """
        status: int | None = None
        try:
            async with (
                asyncio.timeout(_TRANSFER_SECONDS),
                self._cdn.stream(
                    "GET",
                    url,
                    headers={"Accept-Encoding": "identity"},
                    follow_redirects=True,
                    timeout=_timeouts(self.timeout),
                ) as response,
            ):
                status = response.status_code
                if response.is_success:
                    return await _bounded(response, limit)
                problem = f"HTTP {status}"
        except _FAILURES as error:
            problem = _told(error)
        if status in (403, 404, 410):
            raise NotFoundError(f"the output's URL has expired or never was (HTTP {status}): {_place(url)}")
        raise OutputError(redact(f"could not download {_place(url)}: {problem}", self._auth.key))

    async def is_gone(self, url: str) -> bool:
        """Whether an upload is there no longer, asked without the key; only 404 and 410 say so for sure."""
        seconds = min(self.timeout, _LOOK_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                response = await self._cdn.head(url, follow_redirects=True, timeout=_timeouts(seconds))
        except _FAILURES:
            return False
        return response.status_code in (404, 410)

    async def _rest(self) -> float:
        """Wait until submissions may go on; return the seconds that are left for this one.

        The ledger relies on the POST being near the call, so at most half the time is spent waiting.
        """
        start = time.monotonic()
        while (over := _resting.get(self.base_url, 0)) > (now := time.monotonic()):
            if over - start > self.submit_timeout / 2:
                raise RateLimitedError(
                    f"WaveSpeed asked to slow down: submissions rest for {over - now:.1f} s more",
                    retry_after=over - now,
                )
            await asyncio.sleep(over - now)
        return self.submit_timeout - (time.monotonic() - start)

    async def _call(
        self,
        method: str,
        path: str,
        shape: type[_Answer],
        *,
        prediction_id: str | None = None,
        **request: Any,
    ) -> _Answer:
        """Make one request to the API, never a second, and return what its envelope holds."""
        reply = await self._exchange(method, path, **request)
        envelope = reply.body if isinstance(reply.body, dict) else {}
        data = envelope.get("data", envelope)
        # A prediction with an id exists, whatever code stands around it (a 504 or a 5004 in sync mode).
        # An id beside an error, not in ``data``, is a gateway's own.
        exists = shape is Prediction and isinstance(data, dict) and bool(data.get("id"))
        exists = exists and (_is_success(reply.status) or "data" in envelope)
        status, failure = reply.status, reply.failure
        if _is_success(status) and not exists:
            status = _code(envelope) or status
        if failure is None and (_is_success(status) or (exists and status is not None and status >= 500)):
            try:
                return shape.model_validate(
                    data, context={"pictures": reply.pictures, "secret": self._auth.key}
                )
            except ValueError:
                failure = "an answer that the API's documentation does not know"

        if status is not None and not _is_success(status):
            failure = envelope.get("message") or "no explanation"
        said = redact(failure, self._auth.key)
        outcome = f"HTTP {status}" if status else "no answer"
        error = _refusal(status, said) or UnavailableError(
            f"WaveSpeed is not available ({method} {path}, {outcome}): {said}", status=status, sent=reply.sent
        )
        if isinstance(error, RateLimitedError | UnavailableError):
            error.retry_after = reply.retry_after
        error.prediction_id = prediction_id
        raise error

    async def _exchange(
        self, method: str, path: str, *, seconds: float | None = None, **request: Any
    ) -> _Reply:
        """Send one request with the key and read all of the answer; failures are told, not raised.

        So no error of ours holds on to one of httpx's, which holds the request and with it the key.
        """
        seconds = self.timeout if seconds is None else seconds
        reply = _Reply()
        try:
            # The transport has no timeout for the whole of a request.
            async with asyncio.timeout(seconds):
                response = await self._api.handle_async_request(
                    httpx.Request(
                        method,
                        self.base_url + path,
                        headers={**_HEADERS, "Authorization": self._auth.header},
                        extensions={"timeout": _timeouts(seconds).as_dict()},
                        **request,
                    )
                )
                try:
                    reply.status, reply.retry_after = response.status_code, _retry_after(response.headers)
                    if date := response.headers.get("Date"):
                        self._told_time = date, time.time()
                    reply.body, reply.pictures = await _document(response)
                finally:
                    await response.aclose()
        except _FAILURES as error:
            reply.failure = redact(_told(error), self._auth.key)
            reply.sent = not isinstance(error.__cause__ or error, _NEVER_CONNECTED)
        metrics.ANSWERS.labels(reply.status or "none").inc()
        return reply


@dataclass
class _Reply:
    """What came back from one request."""

    status: int | None = None  # None: no answer
    retry_after: float | None = None
    body: Any = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    failure: str | None = None  # why there is no (whole, readable) answer
    sent: bool = True  # False: no connection came about


class _Key:
    """The key, shown by nothing but these two."""

    def __init__(self, key: str) -> None:
        self._key = SecretStr(key)

    @property
    def key(self) -> str:
        return self._key.get_secret_value()

    @property
    def header(self) -> str:
        return f"Bearer {self.key}"


class _Deleted(BaseModel):
    deleted_count: int


class _Balance(BaseModel):
    balance: FiniteFloat


class _Price(BaseModel):
    price: FiniteFloat = Field(ge=0)
    discounted_price: FiniteFloat | None = Field(default=None, ge=0)
    currency: str | None = None


class _UnitPrice(BaseModel):
    unit_price: FiniteFloat = Field(ge=0)
    currency: str | None = None


class _Upload(BaseModel):
    download_url: str = Field(min_length=1)


class _Secret(BaseModel):
    secret: SecretStr = Field(min_length=1)


def _refusal(status: int | None, said: str) -> RestyleError | None:
    """The error for an answer that says clearly that nothing was done; None when it leaves doubt."""
    match status:
        case 429:
            return RateLimitedError(f"WaveSpeed asks to slow down (429): {said}")
        case 401:
            return AuthenticationError(f"WaveSpeed refused the API key (401): {said}")
        case 404:
            return NotFoundError(f"WaveSpeed knows no such thing (404): {said}")
        case 402:
            return InsufficientCreditsError(f"top up the WaveSpeed account (402): {said}")
        case None | 408 | 425:
            return None
        case _ if (400 <= status < 500 or 1000 <= status < 2000) and _CREDITS.search(_URL.sub("", said)):
            return InsufficientCreditsError(f"top up the WaveSpeed account ({status}): {said}")
        case 403:
            return AuthenticationError(f"the WaveSpeed key's account may not do this (403): {said}")
        case _ if 400 <= status < 500 or status in _BAD_PARAMETER:
            named = _QUOTED_FIELD.search(said) or _NAMED_FIELD.search(_URL.sub("", said))
            return InvalidRequestError(
                f"WaveSpeed refused the request ({status}): {said}", field=named[1] if named else None
            )
    return None


def _is_success(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _code(envelope: Mapping[str, Any]) -> int | None:
    """The envelope's code where it tells of a problem: answers with HTTP 200 may hold one."""
    code = envelope.get("code")
    return code if isinstance(code, int) and code not in (0, 200) else None


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds to wait: ``Retry-After`` as seconds, or as a date by the server's own clock."""
    told = headers.get("Retry-After", "").strip()
    if not told:
        return None
    try:
        if told.isdecimal():
            return float(told)
        then = parsedate_to_datetime(told)
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):  # TypeError: one of the dates has no time zone
        return None


async def _document(response: httpx.Response) -> tuple[Any, Mapping[str, bytes]]:
    """A JSON answer, and the pictures that were in it.

    Raises:
        ValueError: it is no JSON, or absurdly long.
    """
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= LONG and "Content-Encoding" not in response.headers:
        body = await response.aread()  # too short for a picture that would have to be kept out of it
        return json.loads(body.decode("utf-8-sig", "replace")), {}
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
            raise _too_big(limit)
        buffer.write(chunk)
    if length is not None and response.num_bytes_downloaded != length:
        raise ValueError(f"{response.num_bytes_downloaded} of {length} bytes came")
    return buffer.getvalue()


def _too_big(limit: int) -> OutputError:
    return OutputError(f"the output is bigger than {limit / 1024 / 1024:g} MB", retryable=False)


@lru_cache(16)
def _timeouts(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(10, seconds / 2), pool=seconds / 2)


async def _without_body(request: httpx.Request) -> None:
    """Or httpx-aiohttp sends, after a redirect, a body of no bytes: servers may refuse that."""
    await request.aread()


def _told(error: BaseException) -> str:
    """An error from below in one line."""
    if isinstance(error, TimeoutError):
        return "timed out"
    error = error.__cause__ or error  # aiohttp's own names say more than what httpx-aiohttp makes of them
    return "timed out" if isinstance(error, TimeoutError) else f"{type(error).__name__} {error}".strip()


def _place(url: str) -> str:
    """A URL without its query, which may hold a signature."""
    return redact(url.partition("?")[0].partition("#")[0])


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _milliseconds(time: datetime) -> str:
    """As the billings call wants its times: milliseconds since 1970, as text."""
    return str(int(time.timestamp() * 1000))


def _checked(base_url: str) -> tuple[str, str]:
    """The base URL without its last slash, and its host."""
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        raise ConfigurationError("base_url is not a URL") from None
    if url.userinfo or url.query or url.fragment:
        raise ConfigurationError("base_url must not hold a user, a password, a query or a fragment")
    if not url.host or not (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host))):
        raise ConfigurationError(f"base_url must be https, or http on loopback: not {redact(url)}")
    return str(url).rstrip("/"), url.host


def _proxy_for(base_url: str, host: str) -> httpx.Proxy | None:
    """The proxy that the environment names for a URL; none for loopback: it must not get that."""
    proxies = urllib.request.getproxies()
    address = proxies.get(base_url.partition(":")[0]) or proxies.get("all")
    if not address or is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return httpx.Proxy(address if "://" in address else f"http://{address}")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _NoQueries(logging.Filter):
    """Takes queries out of the request lines that httpx logs: they hold signatures of URLs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(redact(a) if isinstance(a, httpx.URL) else a for a in record.args)
        return True


logging.getLogger("httpx").addFilter(_NoQueries())
