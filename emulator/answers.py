"""Answers in the API's envelope, and faulty ones."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from prefect_wavespeed.emulator.faults import Rule

_MESSAGES = {
    400: "bad request",
    401: "unauthorized",
    402: "insufficient credits, please top up",
    403: "forbidden",
    404: "not found",
    429: "rate limit exceeded",
    500: "internal server error",
    502: "bad gateway",
    503: "service unavailable",
    504: "gateway timeout",
}
HTML = "<!DOCTYPE html><html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"


def success(data: Any) -> web.Response:
    """HTTP 200 with the data in the envelope."""
    return web.json_response({"code": 200, "message": "success", "data": data})


def refusal(
    status: int,
    message: str | None = None,
    *,
    retry_after: float | str | None = None,
    enveloped: bool = False,
) -> web.Response:
    """An error in the envelope; with ``enveloped``, under HTTP 200."""
    headers: dict[str, str] = {}
    if retry_after is not None:
        headers["Retry-After"] = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
    return web.json_response(
        {
            "code": status,
            "message": message or _MESSAGES.get(status, "error"),
            "error_code": _MESSAGES.get(status, "error").split(",")[0].replace(" ", "_"),
        },
        status=200 if enveloped else status,
        headers=headers,
    )


def by_rule(rule: Rule) -> web.Response:
    """The error that a rule describes."""
    return refusal(rule.status, rule.message, retry_after=rule.retry_after, enveloped=rule.enveloped)


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
