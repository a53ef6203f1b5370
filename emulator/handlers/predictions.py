"""Predictions that exist: result, history, deletion."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NaiveDatetime

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.emulator import answers, shapes
from prefect_wavespeed.emulator.handlers.common import call, check_limit, nanoseconds, query_of
from prefect_wavespeed.emulator.prediction import Status
from prefect_wavespeed.emulator.state import STATE


@call("result")
async def result(request: web.Request) -> web.StreamResponse:
    """``GET /api/v3/predictions/{id}/result``, with or without the last part."""
    state = request.app[STATE]
    predictions, dialects = state.predictions, state.predictions.dialects
    if state.tier is not None and "results-limited" in dialects:
        check_limit(state, state.tier.count_call())
    prediction = predictions.get(request.match_info["id"])
    if prediction is None:
        raise answers.no_such_prediction(dialects)
    shown = {**predictions.answer(prediction), **shapes.told_by_result(prediction, dialects)}
    return answers.prediction(shown, dialects)


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


@call("history")
async def history(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/predictions``: newest first; both limits belong to the range."""
    predictions = request.app[STATE].predictions
    query = await query_of(request, HistoryQuery)
    if "history-refuses-inputs" in predictions.dialects and "include_inputs" in query.model_fields_set:
        raise answers.Refusal(400, 'invalid parameter "include_inputs": unknown field')
    after = nanoseconds(query.created_after, 0)
    before = nanoseconds(query.created_before, 2**63) + 999
    now = nanoseconds(datetime.now(UTC), 0)
    recent = itertools.takewhile(lambda one: one.created >= after, predictions.newest_first())
    matching = (
        prediction
        for prediction in recent
        if prediction.created <= before
        and prediction.listed_from <= now
        and prediction.status != "deleted"
        and query.status in (None, prediction.status)
        and query.model in (None, MODEL)
    )
    first = (query.page - 1) * query.page_size
    items: list[dict[str, Any]] = []
    for prediction in itertools.islice(matching, first, first + query.page_size):
        item = predictions.view(prediction)
        if prediction.inline is not None:
            item["outputs"] = []  # megabytes of base64 are in the result, not in a list
        if query.include_inputs:
            item |= shapes.told_by_history(prediction, predictions.dialects)
        items.append(item)
    return answers.success({"page": query.page, "items": items})


class DeleteQuery(BaseModel):
    """Body of the delete call."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[str] = Field(min_length=1)


@call("delete")
async def delete(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/predictions/delete``."""
    query = await query_of(request, DeleteQuery)
    predictions = request.app[STATE].predictions
    deleted = sum(predictions.delete(prediction_id) for prediction_id in query.ids)
    return answers.success(None if "delete-null" in predictions.dialects else {"deleted_count": deleted})
