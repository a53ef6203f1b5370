"""The account: balance, prices, billing, webhook secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.emulator import answers, shapes, webhooks
from prefect_wavespeed.emulator.dialects import Dialect, Dialects
from prefect_wavespeed.emulator.handlers.common import call, invalid, key_of, nanoseconds, query_of
from prefect_wavespeed.emulator.state import STATE

_TIME = TypeAdapter(datetime)


async def _balance(request: web.Request) -> web.StreamResponse:
    return answers.success({"balance": round(request.app[STATE].predictions.balance, 6)})


balance = call("balance")(_balance)
account_balance = call("account_balance")(_balance)


class PriceQuery(BaseModel):
    """Body of the price calls. The inputs need no image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model_id: str
    inputs: dict[str, Any] = Field(default_factory=dict)


async def _priced_request(request: web.Request) -> ReduxRequest:
    query = await query_of(request, PriceQuery)
    try:
        wanted = ReduxRequest.model_validate({"image": "https://example.com/", **query.inputs}, strict=True)
    except ValidationError as error:
        raise invalid(error) from None
    if query.model_id != MODEL:
        raise answers.Refusal(404, "not found, no such model")
    return wanted


@call("price", missing_in={"price-legacy-only"})
async def price(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/model/price``: the price of the whole request."""
    wanted = await _priced_request(request)
    predictions = request.app[STATE].predictions
    usd = predictions.quote(wanted.num_images)
    if "price-unit" in predictions.dialects:
        return answers.success({"model_id": MODEL, "unit_price": usd, "currency": "USD"})
    return answers.success(
        {"model_id": MODEL, "price": usd, "discounted_price": usd, "discount_rate": 0, "currency": "USD"}
    )


@call("pricing")
async def pricing(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/model/pricing``, the legacy call: the price of one picture."""
    await _priced_request(request)
    return answers.success({"unit_price": request.app[STATE].predictions.price, "currency": "USD"})


class BillingsQuery(BaseModel):
    """Body of the billings search. Times are milliseconds since 1970, as text, or RFC 3339."""

    model_config = ConfigDict(extra="ignore")

    page: int = Field(ge=1, strict=True)
    page_size: int = Field(ge=1, le=100, strict=True)
    start_time: str | None = None
    end_time: str | None = None
    billing_type: str | None = None
    prediction_uuids: list[str] | None = None
    sort: Literal["created_at ASC", "created_at DESC"] = "created_at DESC"


@call("billings")
async def billings(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/billings/search``: what was billed and refunded."""
    predictions = request.app[STATE].predictions
    query = await query_of(request, BillingsQuery)
    after = _moment("start_time", query.start_time, 0, predictions.dialects)
    before = _moment("end_time", query.end_time, 2**63, predictions.dialects) + 999
    matching = [
        bill
        for prediction in predictions.newest_first()
        if query.prediction_uuids is None or prediction.id in query.prediction_uuids
        for bill in shapes.bills(prediction, predictions.dialects)
        if after <= bill.created <= before and query.billing_type in (None, bill.record["billing_type"])
    ]
    matching.sort(key=lambda bill: bill.created, reverse=query.sort == "created_at DESC")
    first, last = (query.page - 1) * query.page_size, query.page * query.page_size
    more = (
        {"total": len(matching)}
        if "billing-total" in predictions.dialects
        else {"has_more": len(matching) > last}
    )
    return answers.success(
        {"page": query.page, **more, "items": [bill.record for bill in matching[first:last]]}
    )


def _moment(name: str, text: str | None, default: int, dialects: Dialects) -> int:
    """A time of a search as Unix nanoseconds.

    Raises:
        Refusal: it is no time, or not in the form that these dialects accept.
    """
    if text is None:
        return default
    form: Dialect = "billing-milliseconds" if text.isdigit() else "billing-rfc3339"
    accepted = dialects & {"billing-milliseconds", "billing-rfc3339"} or {form}
    try:
        if form not in accepted:
            raise ValueError(text)
        return nanoseconds(_TIME.validate_python(text), default)
    except ValueError:
        raise answers.Refusal(400, f'invalid parameter "{name}": not a time') from None


@call("secret")
async def secret(request: web.Request) -> web.StreamResponse:
    """``GET /api/v3/webhook/secret``: one for each key."""
    return answers.success({"secret": webhooks.secret_of(key_of(request) or "")})
