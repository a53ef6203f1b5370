"""The API's calls, but for the media uploads."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NaiveDatetime, ValidationError

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.api.predictions import Status
from prefect_wavespeed.emulator import answers, webhooks
from prefect_wavespeed.emulator.faults import Rule
from prefect_wavespeed.emulator.predictions import NoCreditsError, Record
from prefect_wavespeed.emulator.state import STATE, State

SYNC_LIMIT = 120.0
"""Seconds that a submission in sync mode waits before it says that the prediction goes on."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def key_of(request: web.Request) -> str | None:
    """The API key that came with a request."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def unauthorised(request: web.Request) -> web.Response | None:
    """The refusal of a request without an acceptable key."""
    key = key_of(request)
    keys = request.app[STATE].options.keys
    if key is None or (keys and key not in keys):
        return answers.refusal(401, "unauthorized, the API key is missing or wrong")
    return None


def call(name: str, *, keyed: bool = True) -> Callable[[Handler], Handler]:
    """Make a handler of one of the plain calls: counted, with its key checked, and with its faults."""

    def decorate(handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            state = request.app[STATE]
            state.calls[name] += 1
            if keyed and (refused := unauthorised(request)) is not None:
                return refused
            record = state.predictions.get(request.match_info.get("id", ""))
            rule = state.predictions.script.pick(name, record.asked if record else None)
            if rule is not None and (wrong := await _go_wrong(request, rule)) is not None:
                return wrong
            return await handler(request)

        return handle

    return decorate


async def _go_wrong(request: web.Request, rule: Rule) -> web.Response | None:
    match rule.fault:
        case "status":
            return answers.as_told(rule)
        case "drop":
            return answers.drop(request)
        case "garbage":
            return answers.garbage()
        case "html":
            return answers.html()
        case "redirect":
            return answers.redirect(rule)
        case _:
            await answers.hang(rule.seconds)
            return None


def invalid(error: ValidationError) -> web.Response:
    """A 400 that names the field."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "body"
    reason = (
        "unknown field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    )
    return answers.refusal(400, f'invalid parameter "{name}": {reason}')


# Submit


async def submit(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/wavespeed-ai/flux-redux-dev``."""
    state = request.app[STATE]
    state.calls["submit"] += 1
    if (refused := unauthorised(request)) is not None:
        return refused
    asked = await answers.body_of(request)
    if asked is None:
        return answers.refusal(400, 'invalid parameter "body": must be a JSON object')
    rule = state.predictions.script.pick("submit", asked)
    if rule is not None:
        match rule.fault:
            case "refused":
                return answers.as_told(rule)
            case "drop_before":
                return answers.drop(request)
            case "garbage_before":
                return answers.garbage()
            case "redirect":
                return answers.redirect(rule)
            case "hang_before":
                await answers.hang(rule.seconds)
                return answers.refusal(503)
            case "late":
                state.predictions.start(_create_later(request, state, asked, rule.seconds or 0))
                return answers.drop(request)
    made = _create(request, state, asked)
    if isinstance(made, web.Response):
        return made
    return await _answer(request, state, made, rule)


def _create(request: web.Request, state: State, asked: Mapping[str, Any]) -> Record | web.Response:
    try:
        wanted = ReduxRequest.model_validate(asked, strict=True)
    except ValidationError as error:
        return invalid(error)
    webhook = request.query.get("webhook")
    if webhook is not None and not _deliverable(webhook):
        return answers.refusal(400, 'invalid parameter "webhook": must be an https URL')
    if state.tier is not None and (wait := state.tier.refuse(state.predictions.in_flight)) is not None:
        state.rejected += 1
        return answers.refusal(429, retry_after=wait)
    try:
        return state.predictions.create(wanted, asked, webhook, key_of(request) or "")
    except NoCreditsError:
        return answers.refusal(402)


async def _create_later(request: web.Request, state: State, asked: Mapping[str, Any], seconds: float) -> None:
    await asyncio.sleep(seconds)
    _create(request, state, asked)


def _deliverable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    # The API wants https; a receiver on this machine may do without.
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


async def _answer(request: web.Request, state: State, record: Record, rule: Rule | None) -> web.Response:
    created = state.predictions.view(record)
    match rule.fault if rule else None:
        case "drop_after":
            return answers.drop(request)
        case "status_after" if rule is not None:
            return answers.as_told(rule)
        case "garbage":
            return answers.garbage()
        case "no_id":
            return answers.success(
                {name: value for name, value in created.items() if name not in ("id", "urls")}
            )
        case "hang_after" if rule is not None:
            await answers.hang(rule.seconds)
        case "sync_timeout":
            return _still_going(created)
    if not record.request.enable_sync_mode:
        return answers.success(created)
    try:
        await asyncio.wait_for(record.done.wait(), SYNC_LIMIT)
    except TimeoutError:
        return _still_going(created)
    return answers.success(state.predictions.answer(record))


def _still_going(view: dict[str, Any]) -> web.Response:
    message = "Sync mode timed out; the prediction goes on, query the result later"
    return answers.success({**view, "status": "processing", "code": 5004, "error": message})


async def unknown(request: web.Request) -> web.StreamResponse:
    """Any other path of the API."""
    if (refused := unauthorised(request)) is not None:
        return refused
    return answers.refusal(404, "not found, no such model or call")


# Predictions


@call("result")
async def result(request: web.Request) -> web.StreamResponse:
    """``GET /api/v3/predictions/{id}/result``, with or without the last part."""
    predictions = request.app[STATE].predictions
    record = predictions.get(request.match_info["id"])
    if record is None:
        return answers.refusal(404, "not found, no such prediction")
    return answers.success(predictions.answer(record))


class HistoryQuery(BaseModel):
    """Body of the history call."""

    model_config = ConfigDict(extra="forbid")

    page: int = Field(ge=1, strict=True)
    page_size: int = Field(ge=1, le=100, strict=True)
    model: str | None = None
    status: Status | None = None
    created_after: AwareDatetime | NaiveDatetime | None = None
    created_before: AwareDatetime | NaiveDatetime | None = None
    include_inputs: bool = False


def _nanoseconds(moment: datetime | None, default: int) -> int:
    if moment is None:
        return default
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1000


@call("history")
async def history(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/predictions``: newest first; both time limits belong to the range."""
    predictions = request.app[STATE].predictions
    try:
        query = HistoryQuery.model_validate(await answers.body_of(request))
    except ValidationError as error:
        return invalid(error)
    after = _nanoseconds(query.created_after, 0)
    before = _nanoseconds(query.created_before, 2**63) + 999
    now = _nanoseconds(datetime.now(UTC), 0)
    fitting = (
        record
        for record in itertools.takewhile(lambda record: record.created >= after, predictions.newest_first())
        if record.created <= before
        and record.listed_from <= now
        and record.status != "deleted"
        and query.status in (None, record.status)
        and query.model in (None, MODEL)
    )
    first = (query.page - 1) * query.page_size
    items: list[dict[str, Any]] = []
    for record in itertools.islice(fitting, first, first + query.page_size):
        item = predictions.view(record)
        if record.inline is not None:
            item["outputs"] = []  # megabytes of base64 belong into the result, not into a list
        if query.include_inputs:
            item["input"] = record.asked
        items.append(item)
    return answers.success({"page": query.page, "items": items})


class DeleteQuery(BaseModel):
    """Body of the delete call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[str] = Field(min_length=1)


@call("delete")
async def delete(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/predictions/delete``."""
    try:
        query = DeleteQuery.model_validate(await answers.body_of(request))
    except ValidationError as error:
        return invalid(error)
    deleted = sum(request.app[STATE].predictions.delete(prediction_id) for prediction_id in query.ids)
    return answers.success({"deleted_count": deleted})


# Money


async def _balance(request: web.Request) -> web.StreamResponse:
    return answers.success({"balance": round(request.app[STATE].predictions.balance, 6)})


balance = call("balance")(_balance)
account_balance = call("account_balance")(_balance)


class PriceQuery(BaseModel):
    """Body of the price calls. The inputs may leave the image out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model_id: str
    inputs: dict[str, Any] = Field(default_factory=dict)


async def _priced(request: web.Request) -> ReduxRequest | web.Response:
    try:
        query = PriceQuery.model_validate(await answers.body_of(request))
        wanted = ReduxRequest.model_validate({"image": "https://example.com/", **query.inputs}, strict=True)
    except ValidationError as error:
        return invalid(error)
    return wanted if query.model_id == MODEL else answers.refusal(404, "not found, no such model")


@call("price")
async def price(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/model/price``: the price of the whole request."""
    wanted = await _priced(request)
    if isinstance(wanted, web.Response):
        return wanted
    usd = request.app[STATE].predictions.quote(wanted.num_images)
    return answers.success(
        {"model_id": MODEL, "price": usd, "discounted_price": usd, "discount_rate": 0, "currency": "USD"}
    )


@call("pricing")
async def pricing(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/model/pricing``, the legacy call: the price of one picture."""
    wanted = await _priced(request)
    if isinstance(wanted, web.Response):
        return wanted
    return answers.success({"unit_price": request.app[STATE].predictions.price, "currency": "USD"})


class BillingsQuery(BaseModel):
    """Body of the billings search. Times are milliseconds since 1970, as text; ISO times are let pass."""

    model_config = ConfigDict(extra="ignore")

    page: int = Field(ge=1, strict=True)
    page_size: int = Field(ge=1, le=100, strict=True)
    start_time: AwareDatetime | NaiveDatetime | None = None
    end_time: AwareDatetime | NaiveDatetime | None = None
    billing_type: str | None = None
    prediction_uuids: list[str] | None = None
    sort: Literal["created_at ASC", "created_at DESC"] = "created_at DESC"


@call("billings")
async def billings(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/billings/search``: one item a prediction, with what it really cost (0 when refunded)."""
    predictions = request.app[STATE].predictions
    try:
        query = BillingsQuery.model_validate(await answers.body_of(request))
    except ValidationError as error:
        return invalid(error)
    after = _nanoseconds(query.start_time, 0)
    before = _nanoseconds(query.end_time, 2**63) + 999
    fitting = [
        record
        for record in predictions.newest_first()
        if after <= record.created <= before
        and query.billing_type in (None, "deduct")
        and (query.prediction_uuids is None or record.id in query.prediction_uuids)
    ]
    if query.sort == "created_at ASC":
        fitting.reverse()
    first = (query.page - 1) * query.page_size
    items = [predictions.bill(record) for record in fitting[first : first + query.page_size]]
    return answers.success({"page": query.page, "total": len(fitting), "items": items})


@call("secret")
async def secret(request: web.Request) -> web.StreamResponse:
    """``GET /api/v3/webhook/secret``: one for each key."""
    return answers.success({"secret": webhooks.secret_of(key_of(request) or "")})
