"""The ASGI application: two paths to post to, and two to watch it by."""

from __future__ import annotations

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
from prefect_wavespeed.deployments.receiver import metrics
from prefect_wavespeed.deployments.receiver.bodies import Bodies
from prefect_wavespeed.deployments.receiver.events import object_created, prediction_ended
from prefect_wavespeed.deployments.receiver.notifications import (
    InvalidNotificationError,
    parse_json,
    parse_notification,
)
from prefect_wavespeed.deployments.receiver.prefect_api import PrefectApi
from prefect_wavespeed.deployments.receiver.sns import ForgedError, SnsVerifier, is_envelope, text_field
from prefect_wavespeed.deployments.receiver.token import has_token
from prefect_wavespeed.deployments.receiver.webhook_secret import WebhookSecret
from prefect_wavespeed.errors import RestyleError

_RETRY_AFTER = {"Retry-After": "5"}


@dataclass
class Receiver:
    """Answers the requests.

    Attributes:
        prefect: accepts the events.
        secret: with which WaveSpeedAI signs webhooks.
        sns: verifies what comes through Amazon SNS.
        token: that senders of S3 notifications have to show; None refuses all of them.
        health_checks: further checks for ``/health``; each returns a problem, or None.
    """

    prefect: PrefectApi
    secret: WebhookSecret
    sns: SnsVerifier
    token: str | None
    health_checks: list[Callable[[], str | None]] = field(default_factory=list)
    _bodies: Bodies = field(default_factory=Bodies)

    def app(self) -> ASGIApp:
        """Build the application."""
        routes = [
            Route("/s3", self.s3, methods=["POST"]),
            Route("/wavespeed", self.wavespeed, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={
                RestyleError: _on_error,
                HTTPException: _on_http_exception,
                ClientDisconnect: _on_disconnect,
            },
        )
        app.router.redirect_slashes = False  # a redirect would leave TLS, and take the token along
        return _Counted(app, {route.path for route in routes})

    async def s3(self, request: Request) -> Response:
        """``POST /s3``: a notification in one of the formats that `notifications` knows."""
        if self.token is None or not has_token(request, self.token):
            # SNS and others send a URL's user and password only after this challenge
            challenge = {"WWW-Authenticate": 'Basic realm="restyle", charset="UTF-8"'}
            raise HTTPException(401, "the token is missing or wrong", headers=challenge)
        message = parse_json(await self._bodies.read(request))
        if is_envelope(message):
            await self.sns.verify(message)
            if message["Type"] == "SubscriptionConfirmation":
                await self.sns.confirm(message)
            if message["Type"] != "Notification":
                return _accepted(0, ignored=1)
            message = parse_json(text_field(message, "Message"))
        notification = parse_notification(message)
        await self.prefect.send([object_created(created) for created in notification.created])
        return _accepted(len(notification.created), notification.ignored)

    async def wavespeed(self, request: Request) -> Response:
        """``POST /wavespeed``: a webhook of WaveSpeedAI; ``job=`` is its job, ``wait=no``: no run waits."""
        secret = await self.secret.get()  # first: whoever waits for it has no body in memory
        prediction, secret = await self._verify(request, await self._bodies.read(request), secret)
        if not prediction.terminal:
            return _accepted(0, ignored=1)
        waited = request.query_params.get("wait") != "no"
        job_key = request.query_params.get("job", "")
        await self.prefect.send([prediction_ended(prediction, secret, waited=waited, job_key=job_key)])
        return _accepted(1)

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200 if events would be accepted, else 503 with the reason."""
        results = [await self.prefect.known_problem(), *(check() for check in self.health_checks)]
        if problems := [problem for problem in results if problem]:
            return JSONResponse({"status": "unavailable", "error": "; ".join(problems)}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``, for Prometheus."""
        return Response(metrics.latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _verify(self, request: Request, body: bytes, secret: str) -> tuple[Prediction, str]:
        """Return the webhook's prediction and the secret that signed it."""
        try:
            return verify_webhook(request.headers, body, secret), secret
        except BadSignatureError:  # forged, or the secret has changed
            new_secret = await self.secret.refresh(secret)
            if new_secret is None:
                raise
            return verify_webhook(request.headers, body, new_secret), new_secret


def _accepted(events: int, ignored: int = 0) -> Response:
    metrics.IGNORED.inc(ignored)
    return JSONResponse({"events": events, "ignored": ignored})


async def _on_error(request: Request, error: Exception) -> Response:
    content = {"error": str(error)}
    match error:
        case BadSignatureError() | ForgedError():
            return JSONResponse(content, 401)
        case InvalidNotificationError() | WebhookError():
            return JSONResponse(content, 400)
    return JSONResponse(content, 503, _RETRY_AFTER)  # Prefect or the secret is not available: senders retry


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the connection was closed before the body was complete"}, 400)


class _Counted:
    """Counts the answers of an application."""

    def __init__(self, app: ASGIApp, paths: set[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                metrics.REQUESTS.labels(path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, send_counted)
