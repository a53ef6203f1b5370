"""The ASGI application: two places to post to, and two to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import BadSignatureError, WebhookError, verify_webhook
from prefect_wavespeed.deployments.receiver import metrics, notifications, sns
from prefect_wavespeed.deployments.receiver.events import object_created, prediction_ended
from prefect_wavespeed.deployments.receiver.notifications import NotUnderstoodError
from prefect_wavespeed.deployments.receiver.prefect_api import PrefectApi
from prefect_wavespeed.deployments.receiver.secrets import WebhookSecret, bears_token
from prefect_wavespeed.errors import RestyleError

LIMIT = 1 << 20
"""Bytes that a body may have."""

_BODY_SECONDS = 10.0
_RETRY_AFTER = {"Retry-After": "5"}


@dataclass
class Receiver:
    """What answers the requests.

    Attributes:
        prefect: takes the events.
        secret: by which WaveSpeedAI signs.
        sns: verifies what comes through Amazon SNS.
        token: that senders of S3 notifications bear; None refuses them all.
        watched: further things to look after, each telling its trouble, for ``/health``.
    """

    prefect: PrefectApi
    secret: WebhookSecret
    sns: sns.Sns
    token: str | None
    watched: list[Callable[[], str | None]] = field(default_factory=list)

    def app(self) -> ASGIApp:
        """The application."""
        routes = [
            Route("/s3", self.s3, methods=["POST"]),
            Route("/wavespeed", self.wavespeed, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={
                RestyleError: _failed,
                HTTPException: _refused,
                ClientDisconnect: _gone,
            },
        )
        app.router.redirect_slashes = False  # a redirect would leave TLS, and carry the token along
        return _Counted(app, {route.path for route in routes})

    async def s3(self, request: Request) -> Response:
        """``POST /s3``: an event notification of any sender that ``notifications`` knows."""
        if self.token is None or not bears_token(request, self.token):
            # SNS and others send a URL's user and password only when asked
            ask = {"WWW-Authenticate": 'Basic realm="restyle", charset="UTF-8"'}
            raise HTTPException(401, "the token is missing or wrong", headers=ask)
        message = notifications.parse(await _body(request))
        if sns.is_envelope(message):
            await self.sns.verify(message)
            if message["Type"] == "SubscriptionConfirmation":
                await self.sns.confirm(message)
            if message["Type"] != "Notification":
                return _taken(0, ignored=1)
            message = notifications.parse(sns.text(message, "Message"))
        told = notifications.read(message)
        await self.prefect.put([object_created(created) for created in told.created])
        return _taken(len(told.created), told.ignored)

    async def wavespeed(self, request: Request) -> Response:
        """``POST /wavespeed``: a webhook of WaveSpeedAI's; with ``?wait=no`` nobody waits for it."""
        body = await _body(request)
        prediction, secret = await self._verified(request, body)
        if not prediction.terminal:
            return _taken(0, ignored=1)
        waited = request.query_params.get("wait") != "no"
        await self.prefect.put([prediction_ended(prediction, secret, waited=waited)])
        return _taken(1)

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200 when what comes would be taken, else 503 with the reason."""
        troubles = [await self.prefect.look(), *(ask() for ask in self.watched)]
        if told := [trouble for trouble in troubles if trouble]:
            return JSONResponse({"status": "unavailable", "error": "; ".join(told)}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``, for Prometheus."""
        return Response(metrics.latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _verified(self, request: Request, body: bytes) -> tuple[Prediction, str]:
        secret = await self.secret.get()
        try:
            return verify_webhook(request.headers, body, secret), secret
        except BadSignatureError:  # forged, or the secret is another by now
            renewed = await self.secret.renewed(secret)
            if renewed is None:
                raise
            return verify_webhook(request.headers, body, renewed), renewed


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LIMIT:
                    raise HTTPException(413, f"the body is larger than {LIMIT:,} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {_BODY_SECONDS:g} s") from None
    return bytes(body)


def _taken(events: int, ignored: int = 0) -> Response:
    metrics.IGNORED.inc(ignored)
    return JSONResponse({"events": events, "ignored": ignored})


async def _failed(request: Request, error: Exception) -> Response:
    told = {"error": str(error)}
    match error:
        case BadSignatureError() | sns.ForgedError():
            return JSONResponse(told, 401)
        case NotUnderstoodError() | WebhookError():
            return JSONResponse(told, 400)
    return JSONResponse(told, 503, _RETRY_AFTER)  # Prefect or a secret is missing: the sender tries again


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the connection was closed before the body was whole"}, 400)


class _Counted:
    """Counts the answers of an application."""

    def __init__(self, app: ASGIApp, paths: set[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                metrics.REQUESTS.labels(path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counted)
