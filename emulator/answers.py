"""Answers in the API's envelope, and faulty ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from prefect_wavespeed.emulator.dialects import Dialect, Dialects
from prefect_wavespeed.emulator.faults import Rule
from prefect_wavespeed.emulator.prediction import TERMINAL

_MESSAGES = {
    400: "bad request",
    401: "unauthorized",
    402: "Insufficient credits. Please top up your account.",
    403: "forbidden",
    404: "not found",
    429: "You have reached your concurrency limit",
    500: "internal server error",
    502: "bad gateway",
    503: "service unavailable",
    504: "gateway timeout",
}
HTML = "<!DOCTYPE html><html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"


class Refusal(Exception):  # noqa: N818 - it is an answer, not a mistake in this program
    """A call that is refused. Raise it: `refused` makes the answer, in the dialects that are spoken.

    Args:
        status: of HTTP.
        message: why; a usual text by default.
        code: in the body; the status by default.
        retry_after: seconds, or text that is sent as it is; answered in every dialect.
        enveloped: answer HTTP 200, with the status only in the body's ``code``.
        body_in: the dialect of the body, whatever is spoken elsewhere.
        data: the prediction that comes with it.
        more: goes into the body.
    """

    def __init__(
        self,
        status: int,
        message: str | None = None,
        *,
        code: int | None = None,
        retry_after: float | str | None = None,
        enveloped: bool = False,
        body_in: Dialect | None = None,
        data: Mapping[str, Any] | None = None,
        **more: str,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.message = message or _MESSAGES.get(status, "error")
        self.code = code
        self.retry_after = retry_after
        self.enveloped = enveloped
        self.body_in = body_in
        self.data = data
        self.more = more


def by_rule(rule: Rule, data: Mapping[str, Any] | None = None) -> Refusal:
    """The refusal that a rule describes, with the prediction that comes with it."""
    return Refusal(
        rule.status,
        rule.message,
        code=rule.code or None,
        retry_after=rule.retry_after,
        enveloped=rule.enveloped,
        data=data,
    )


def no_credits(dialects: Dialects) -> Refusal:
    """The refusal of an account whose balance does not cover the price."""
    if "credits-402" in dialects:
        return Refusal(402)
    if dialects & {"credits-1407", "credits-1407-enveloped"}:
        enveloped = "credits-1407-enveloped" in dialects
        return Refusal(400, _MESSAGES[402], code=1407, enveloped=enveloped, error_code="insufficient_credits")
    return Refusal(400, _MESSAGES[402], code=400)


def no_such_prediction(dialects: Dialects) -> Refusal:
    """The refusal of a call about a prediction that does not exist."""
    status = 400 if "unknown-is-400" in dialects else 500 if "unknown-is-500" in dialects else 404
    return Refusal(status, "prediction not found", code=status)


def refused(refusal: Refusal, dialects: Dialects) -> web.Response:
    """The answer of a call that is refused."""
    headers: dict[str, str] = {}
    if refusal.retry_after is not None:
        wait = refusal.retry_after
        headers["Retry-After"] = wait if isinstance(wait, str) else f"{wait:g}"
    enveloped, code = refusal.enveloped, refusal.code or refusal.status
    if "refusals-enveloped" in dialects and refusal.status == 400:
        enveloped, code = True, refusal.code or 1400
    status = 200 if enveloped else refusal.status
    if refusal.data is not None and "error-is-task" in dialects:
        return web.json_response(refusal.data, status=status, headers=headers)
    body = _text(refusal.message, frozenset({refusal.body_in}) if refusal.body_in else dialects)
    if code != status or "message" in body:
        body = {"code": code, **body, **refusal.more}
    if refusal.data is not None:
        body["data"] = refusal.data
    return web.json_response(body, status=status, headers=headers)


def _text(message: str, dialects: Dialects) -> dict[str, Any]:
    """Where a refusal's text stands."""
    if "text-in-error" in dialects:
        return {"error": message}
    if "text-in-detail" in dialects:
        return {"detail": message}
    if "text-in-detail-list" in dialects:
        return {"detail": [{"loc": ["body"], "msg": message, "type": "value_error"}]}
    if "text-in-errors" in dialects:
        return {"errors": [{"message": message}]}
    return {"message": message}


def success(data: Any) -> web.Response:
    """HTTP 200 with the data in the envelope."""
    return web.json_response({"code": 200, "message": "success", "data": data})


def prediction(shown: Mapping[str, Any], dialects: Dialects) -> web.Response:
    """A prediction that was asked for by its id, or that a submission in sync mode waited for.

    Raises:
        Refusal: it failed, and such an answer is an error in these dialects.
    """
    failed = shown["status"] in TERMINAL - {"completed"}
    if failed and dialects & {"error-with-task", "error-is-task"}:
        raise Refusal(500 if shown["code"] >= 5000 else 400, shown["error"], data=shown)
    return success(shown)


def drop(request: web.Request) -> web.Response:
    """Cut the connection; the answer returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def garbage() -> web.Response:
    """HTTP 200 with a body that begins like JSON but is not."""
    return web.Response(body=b'{"code": 200, "data": {"id": "\xff\xfe', content_type="application/json")


def html() -> web.Response:
    """HTTP 200 with an HTML page."""
    return web.Response(text=HTML, content_type="text/html")


def redirect(rule: Rule) -> web.Response:
    """A 307 to the rule's location."""
    return web.Response(status=307, headers={"Location": rule.location or "/"})


async def hang(seconds: float | None) -> None:
    """Wait; for None, until the client disconnects."""
    if seconds is None:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep(seconds)


async def body_of(request: web.Request) -> dict[str, Any] | None:
    """Return the JSON object in the body; None for anything else."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
