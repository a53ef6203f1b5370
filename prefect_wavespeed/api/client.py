"""The WaveSpeedAI v3 API, one method a call."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

from prefect_wavespeed import metrics
from prefect_wavespeed.api._transport import Transport
from prefect_wavespeed.api._uploads import Uploader
from prefect_wavespeed.api.answers import (
    Balance,
    Deleted,
    Price,
    Reply,
    UnitPrice,
    WebhookSecret,
    read_answer,
)
from prefect_wavespeed.api.billing import BillingsPage, Quote
from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.pacing import Turn, pace_of
from prefect_wavespeed.api.predictions import HistoryPage, Prediction
from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.errors import (
    AmbiguousSubmissionError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    RestyleError,
    UnavailableError,
)
from prefect_wavespeed.settings import get_settings

MAX_DOWNLOAD = 50 * 1024 * 1024
"""Bytes of the largest output that is downloaded."""

_TRANSFER_SECONDS = 300  # for a whole upload or download
_HEAD_SECONDS = 5  # to see whether an upload still exists

_NO_INPUTS = re.compile(r"(?i)\binclude.?inputs\b|\bunknown (field|parameter)")

_Shape = TypeVar("_Shape", bound=BaseModel)


class WaveSpeedClient:
    """An asynchronous client, with one pool of connections for the API and its CDN.

    Belongs to one event loop; close it with ``async with`` or ``aclose()``.

    The key goes to ``base_url`` and nowhere else: no redirect is followed there, downloads carry no key, and
    no error holds a request, a response or a header.

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
        traits: what is known of this API beyond its documentation.

    Attributes:
        pace: when to submit after a 429; shared by all clients of this process and of one API.

    Raises:
        ConfigurationError: the key is malformed, or the URL is not a safe place to send it.
    """

    def __init__(
        self,
        api_key: str | SecretStr,
        base_url: str = "https://api.wavespeed.ai",
        *,
        submit_timeout: float | None = None,
        timeout: float = 30,
        max_connections: int = 256,
        traits: ApiTraits | None = None,
    ) -> None:
        self._transport = Transport(api_key, base_url, max_connections)
        self.base_url = self._transport.base_url
        self.pace = pace_of(self.base_url)
        self.submit_timeout = (
            get_settings().submit_timeout_seconds if submit_timeout is None else submit_timeout
        )
        self.timeout = timeout
        self.traits = traits or ApiTraits()
        self._history_tells_inputs = self.traits.history_has_inputs is not False  # until it refuses to
        self._uploader = Uploader(self._transport, self._call)
        self._written_times = _milliseconds, _iso  # of billings: what works, and what else may

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
        await self._transport.aclose()

    @property
    def clock_skew(self) -> timedelta | None:
        """How far the API's clock is ahead of ours, by its last answer; None where it had no Date."""
        return self._transport.clock_skew

    async def submit(
        self,
        request: ReduxRequest,
        *,
        webhook_url: str | None = None,
        in_time: Callable[[], bool] = lambda: True,
        turn: Turn | None = None,
    ) -> Prediction:
        """Submit a request with exactly one POST, and return the prediction that it created.

        After a 429 all submissions of this process to this API wait for their turns. The whole call takes at
        most ``submit_timeout`` seconds. Where half of that passes before its turn has come, it is a
        RateLimitedError, with nothing sent.

        Args:
            request: what to do.
            webhook_url: https URL that WaveSpeedAI calls when the prediction has ended.
            in_time: called just before sending; if it returns False, nothing is sent (RateLimitedError).
            turn: of ``pace``; by default the call waits for one of its own. It has ended afterwards.

        Raises:
            InvalidRequestError, AuthenticationError, InsufficientCreditsError, NotFoundError,
            RateLimitedError: refused, nothing was created.
            UnavailableError: no connection was established, nothing was sent.
            AmbiguousSubmissionError: anything else; the prediction may exist.
        """
        latest = time.monotonic() + self.submit_timeout
        turn = turn or await self._own_turn()
        try:
            if not in_time():
                raise RateLimitedError("it took too long to submit: nothing was sent", retry_after=0.0)
            return await self._post(request, webhook_url, turn, latest - time.monotonic())
        finally:
            turn.give_back()

    async def _own_turn(self) -> Turn:
        """A turn, within half the time: the ledger relies on the POST following soon after the call."""
        seconds = self.submit_timeout / 2
        try:
            async with asyncio.timeout(seconds):
                return await self.pace.turn(seconds)
        except TimeoutError:
            pass
        raise RateLimitedError(f"WaveSpeed asked to slow down: nothing was sent within {seconds:g} s")

    async def _post(
        self, request: ReduxRequest, webhook_url: str | None, turn: Turn, seconds: float
    ) -> Prediction:
        doubt: str | None = None
        outcome = "unanswered"
        try:
            prediction = await self._call(
                "POST",
                f"/api/v3/{MODEL}",
                Prediction,
                seconds=seconds,
                params={"webhook": webhook_url} if webhook_url else None,
                json=self._body(request),
            )
            outcome = "accepted"
            turn.accepted(prediction)
            return prediction
        except RateLimitedError as error:
            outcome = "rate_limited"
            turn.refused(error.retry_after)
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
        raise AmbiguousSubmissionError(f"{doubt}; the prediction may exist and be billed", reason=doubt)

    async def result(self, prediction_id: str) -> Prediction:
        """Return a prediction's present state.

        Raises:
            NotFoundError: the API does not know its id; it may say so by a 400 or 500 with a text.
            UnavailableError: it does not answer now, or with another prediction.
        """
        path = f"/api/v3/predictions/{quote(prediction_id, safe='')}/result"
        try:
            prediction = await self._call("GET", path, Prediction, prediction_id=prediction_id)
        except NotFoundError:
            self.pace.ended(prediction_id)
            raise
        if prediction.terminal:
            self.pace.ended(prediction_id)
        return prediction

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
        """Return one page of the last 7 days' predictions, newest first.

        Args:
            page, page_size: which page, of how many predictions: 100 at most.
            model, status: only these.
            created_after, created_before: only these; the times must be aware.
            include_inputs: ask for what each prediction was asked for. Where that is refused, the page comes
                without. This client does not ask again where the refusal names the field, nor where the
                history is known to tell no inputs.
        """
        query: dict[str, Any] = {"page": page, "page_size": page_size}
        query |= {"model": model} if model else {}
        query |= {"status": status} if status else {}
        query |= {"created_after": _iso(created_after)} if created_after else {}
        query |= {"created_before": _iso(created_before)} if created_before else {}
        if include_inputs and self._history_tells_inputs:
            try:
                return await self._history(query | {"include_inputs": True})
            except InvalidRequestError as error:
                found = await self._history(query)
                self._history_tells_inputs = not _NO_INPUTS.search(error.message)
                return found
        return await self._history(query)

    async def _history(self, query: dict[str, Any]) -> HistoryPage:
        return await self._call("POST", "/api/v3/predictions", HistoryPage, json=query)

    async def delete(self, prediction_ids: Sequence[str]) -> int | None:
        """Delete predictions and return how many were deleted; None where the API does not say."""
        body = {"ids": list(prediction_ids)}
        return (await self._call("POST", "/api/v3/predictions/delete", Deleted, json=body)).deleted_count

    async def balance(self) -> float:
        """Return the account's balance in USD."""
        try:
            return (await self._call("GET", "/api/v3/balance", Balance)).balance
        except NotFoundError:  # the vendor's documentation names both paths
            return (await self._call("GET", "/api/v3/account/balance", Balance)).balance

    async def price(self, request: ReduxRequest) -> Quote:
        """Return what a request would cost, discounts included. Creates nothing."""
        try:
            price = await self._price(request)
        except NotFoundError:
            older = await self._call("POST", "/api/v3/model/pricing", UnitPrice, json={"model_id": MODEL})
            return Quote(usd=older.unit_price * request.num_images, currency=older.currency or "USD")
        usd = price.charged
        if usd is None:
            usd = await self._usd_of_all(request, price.unit_price or 0.0)
        return Quote(usd=usd, currency=price.currency or "USD")

    async def _usd_of_all(self, request: ReduxRequest, unit_price: float) -> float:
        """What a ``unit_price`` means: one that does not depend on the number of pictures is for one."""
        if request.num_images > 1:
            single = await self._price(request.model_copy(update={"num_images": 1}))
            if single.unit_price == unit_price:
                return unit_price * request.num_images
        return unit_price

    async def _price(self, request: ReduxRequest) -> Price:
        body = {"model_id": MODEL, "inputs": request.model_dump()}
        return await self._call("POST", "/api/v3/model/price", Price, json=body)

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
        moments = {"start_time": start_time, "end_time": end_time}
        times = {name: moment for name, moment in moments.items() if moment}
        written, otherwise = self._written_times
        path = "/api/v3/billings/search"
        try:
            return await self._call("POST", path, BillingsPage, json=query | _written(times, written))
        except InvalidRequestError:
            if not times:
                raise
            found = await self._call("POST", path, BillingsPage, json=query | _written(times, otherwise))
        self._written_times = otherwise, written
        return found

    async def upload(self, filename: str, data: bytes, content_type: str) -> str:
        """Upload a picture (up to 20 MB, kept for 7 days) and return the URL to submit it by."""
        return await self._uploader.upload(filename, data, content_type, seconds=_TRANSFER_SECONDS)

    async def webhook_secret(self) -> SecretStr:
        """Return the secret that signs this key's webhooks."""
        return (await self._call("GET", "/api/v3/webhook/secret", WebhookSecret)).secret

    async def download(self, url: str, *, limit: int = MAX_DOWNLOAD) -> bytes:
        """Download an output, without the key, and return its bytes: all of them, and at most ``limit``.

        Raises:
            NotFoundError: the URL has expired (403, 404, 410); the result call gives a fresh one.
            OutputError: it could not be downloaded whole; not retryable when it is over the limit.
        """
        return await self._transport.download(
            url, limit=limit, seconds=_TRANSFER_SECONDS, stall_seconds=self.timeout
        )

    async def is_gone(self, url: str) -> bool:
        """Whether an upload has been deleted, asked without the key: 403 (of S3, many CDNs), 404 or 410."""
        status = await self._transport.status_of(url, seconds=min(self.timeout, _HEAD_SECONDS))
        return status in (403, 404, 410)

    async def _call(
        self,
        method: str,
        path: str,
        shape: type[_Shape],
        *,
        seconds: float | None = None,
        prediction_id: str | None = None,
        **request: Any,
    ) -> _Shape:
        """Make one request to the API, never a second, and return what its envelope holds."""
        seconds = self.timeout if seconds is None else seconds
        reply = await self._transport.exchange(method, path, seconds=seconds, **request)
        self._received(f"{method} {path}", reply)
        return read_answer(
            reply,
            shape,
            call=f"{method} {path}",
            redact=self._transport.redact,
            prediction_id=prediction_id,
        )

    # -- for subclasses that try out the API ------------------------------------------------------

    def _body(self, request: ReduxRequest) -> dict[str, Any]:
        """What is POSTed to submit a request."""
        return request.model_dump()

    def _received(self, call: str, reply: Reply) -> None:
        """Called with every answer, before it is read; ``call`` is its method and path."""


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _written(times: Mapping[str, datetime], write: Callable[[datetime], str]) -> dict[str, str]:
    return {name: write(time) for name, time in times.items()}


def _milliseconds(time: datetime) -> str:
    """Milliseconds since 1970, as text."""
    return str(int(time.timestamp() * 1000))
