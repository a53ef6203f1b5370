"""The account: balance, prices, billing, webhook secret."""

from __future__ import annotations

from typing import Any, Literal

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NaiveDatetime, ValidationError

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.emulator import answers, shapes, webhooks
from prefect_wavespeed.emulator.handlers.common import call, invalid, key_of, nanoseconds, query_of
from prefect_wavespeed.emulator.state import STATE


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


@call("price")
async def price(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/model/price``: the price of the whole request."""
    wanted = await _priced_request(request)
    usd = request.app[STATE].predictions.quote(wanted.num_images)
    return answers.success(
        {"model_id": MODEL, "price": usd, "discounted_price": usd, "discount_rate": 0, "currency": "USD"}
    )


@call("pricing")
async def pricing(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/model/pricing``, the legacy call: the price of one picture."""
    await _priced_request(request)
    return answers.success({"unit_price": request.app[STATE].predictions.price, "currency": "USD"})


class BillingsQuery(BaseModel):
    """Body of the billings search. Times are milliseconds since 1970, as text; ISO times are accepted."""

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
    """``POST /api/v3/billings/search``: an item for each prediction, with its final price (0 if refunded)."""
    predictions = request.app[STATE].predictions
    query = await query_of(request, BillingsQuery)
    after = nanoseconds(query.start_time, 0)
    before = nanoseconds(query.end_time, 2**63) + 999
    matching = [
        prediction
        for prediction in predictions.newest_first()
        if after <= prediction.created <= before
        and query.billing_type in (None, "deduct")
        and (query.prediction_uuids is None or prediction.id in query.prediction_uuids)
    ]
    if query.sort == "created_at ASC":
        matching.reverse()
    first = (query.page - 1) * query.page_size
    items = [shapes.bill(prediction) for prediction in matching[first : first + query.page_size]]
    return answers.success({"page": query.page, "total": len(matching), "items": items})


@call("secret")
async def secret(request: web.Request) -> web.StreamResponse:
    """``GET /api/v3/webhook/secret``: one for each key."""
    return answers.success({"secret": webhooks.secret_of(key_of(request) or "")})
