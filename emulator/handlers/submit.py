"""Submitting a prediction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import ValidationError

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.emulator import answers
from prefect_wavespeed.emulator.faults import Rule
from prefect_wavespeed.emulator.handlers.common import check_key, check_limit, invalid, key_of
from prefect_wavespeed.emulator.prediction import Prediction
from prefect_wavespeed.emulator.predictions import NoCreditsError
from prefect_wavespeed.emulator.state import STATE, State

SYNC_LIMIT = 120.0
"""Seconds that a submission in sync mode waits before it answers that the prediction is still processing."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


async def submit(request: web.Request) -> web.StreamResponse:
    """``POST /api/v3/wavespeed-ai/flux-redux-dev``."""
    state = request.app[STATE]
    state.calls["submit"] += 1
    check_key(request)
    body = await answers.body_of(request)
    if body is None:
        raise answers.Refusal(400, 'invalid parameter "body": must be a JSON object')
    rule = state.predictions.script.pick("submit", body)
    if rule is not None and (faulty := await _apply_before(request, state, body, rule)) is not None:
        return faulty
    return await _answer(request, state, _create(request, state, body), rule)


async def _apply_before(
    request: web.Request, state: State, body: Mapping[str, Any], rule: Rule
) -> web.Response | None:
    """Return the answer of a fault that strikes before the creation; None for any other."""
    match rule.fault:
        case "refused":
            raise answers.by_rule(rule)
        case "drop_before":
            return answers.drop(request)
        case "garbage_before":
            return answers.garbage()
        case "redirect":
            return answers.redirect(rule)
        case "hang_before":
            await answers.hang(rule.seconds)
            raise answers.Refusal(503)
        case "late":
            state.predictions.start(_create_later(request, state, body, rule.seconds or 0))
            return answers.drop(request)
    return None


def _create(request: web.Request, state: State, body: Mapping[str, Any]) -> Prediction:
    """Create a prediction.

    Raises:
        Refusal: the request is not valid, or the account may not make it now.
    """
    if "fields-dropped" in state.predictions.dialects:
        body = _without_invalid(body)
    try:
        wanted = ReduxRequest.model_validate(body, strict=True)
    except ValidationError as error:
        raise invalid(error) from None
    webhook = request.query.get("webhook")
    if webhook is not None and not _is_acceptable(webhook):
        raise answers.Refusal(400, 'invalid parameter "webhook": must be an https URL')
    if webhook is not None and wanted.enable_base64_output:
        # seen: this refusal has no code, and its text is elsewhere than in others
        raise answers.Refusal(400, "webhook is not supported with base64 output", body_in="text-in-error")
    if state.tier is not None:
        excess = state.tier.count_submission(state.predictions.in_flight)
        state.rejected += excess is not None
        check_limit(state, excess)
    try:
        return state.predictions.create(wanted, body, webhook, key_of(request) or "")
    except NoCreditsError:
        raise answers.no_credits(state.predictions.dialects) from None


def _without_invalid(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a request that exist and are valid."""
    try:
        ReduxRequest.model_validate(body, strict=True)
    except ValidationError as error:
        invalid_fields = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
        return {name: value for name, value in body.items() if name not in invalid_fields}
    return body


async def _create_later(request: web.Request, state: State, body: Mapping[str, Any], seconds: float) -> None:
    await asyncio.sleep(seconds)
    with contextlib.suppress(answers.Refusal):  # nobody is there to hear it
        _create(request, state, body)


def _is_acceptable(webhook: str) -> bool:
    """Whether a webhook URL is https, as the API requires; or http, for a receiver on this machine."""
    try:
        parts = urlsplit(webhook)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


async def _answer(
    request: web.Request, state: State, prediction: Prediction, rule: Rule | None
) -> web.Response:
    created = state.predictions.view(prediction)
    if "submit-error-with-task" in state.predictions.dialects:
        raise answers.Refusal(400, data=created)
    match rule.fault if rule else None:
        case "drop_after":
            return answers.drop(request)
        case "status_after" if rule is not None:
            raise answers.by_rule(rule)
        case "garbage":
            return answers.garbage()
        case "no_id":
            return answers.success({k: value for k, value in created.items() if k not in ("id", "urls")})
        case "hang_after" if rule is not None:
            await answers.hang(rule.seconds)
        case "sync_timeout":
            return _still_processing(created)
        case "error_with_task" if rule is not None:
            raise answers.by_rule(rule, created)
    if not prediction.request.enable_sync_mode:
        return answers.success(created)
    prediction.done = prediction.done or asyncio.Event()
    if prediction.terminal:
        prediction.done.set()
    try:
        await asyncio.wait_for(prediction.done.wait(), SYNC_LIMIT)
    except TimeoutError:
        return _still_processing(created)
    return answers.prediction(state.predictions.answer(prediction), state.predictions.dialects)


def _still_processing(view: dict[str, Any]) -> web.Response:
    message = "Sync mode timed out; the prediction goes on, query the result later"
    return answers.success({**view, "status": "processing", "code": 5004, "error": message})
