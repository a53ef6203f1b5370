"""The receiver as a process."""

from __future__ import annotations

import asyncio

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from prefect_wavespeed.api.public_http import FAILURES, public_client
from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET, RECEIVER_TOKEN_VARIABLE
from prefect_wavespeed.deployments.receiver.app import Receiver
from prefect_wavespeed.deployments.receiver.log import log_to_stderr
from prefect_wavespeed.deployments.receiver.prefect_api import PrefectApi
from prefect_wavespeed.deployments.receiver.sns import Fetch, SnsVerifier
from prefect_wavespeed.deployments.receiver.sqs import SqsQueue
from prefect_wavespeed.deployments.receiver.token import load_token
from prefect_wavespeed.deployments.receiver.webhook_secret import WebhookSecret
from prefect_wavespeed.deployments.serving import SHUTDOWN_SECONDS, Server, listen
from prefect_wavespeed.errors import ConfigurationError, UnavailableError

_FETCH_SECONDS = 5.0
_MAX_FETCHED = 64 * 1024  # bytes; a certificate has a few thousand
_SNS = "sns.us-east-1.amazonaws.com"  # no loopback: only public addresses are connected to


async def serve(host: str, port: int, sqs: str | None, wavespeed: str) -> None:
    """Receive until SIGTERM or SIGINT; prints the address to stdout, and logs to stderr.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        sqs: URL of a queue to read, too.
        wavespeed: name of the `WaveSpeed` block whose webhooks are received.

    Raises:
        ConfigurationError: a setting is missing, or the address or the queue cannot be used.
    """
    log_to_stderr()
    if not get_current_settings().api.url:  # a temporary server's events would be lost
        raise ConfigurationError(
            "there is no Prefect API to send events to: set PREFECT_API_URL, such as http://127.0.0.1:4200/api"
        )
    token = await load_token()
    if token is None and sqs is None:
        raise ConfigurationError(
            f"there is no token for senders: set {RECEIVER_TOKEN_VARIABLE}, or save it as the block "
            f"secret/{RECEIVER_TOKEN_SECRET}"
        )
    async with (
        get_client() as client,
        public_client(_SNS, timeout=_FETCH_SECONDS) as http,
    ):
        prefect = PrefectApi(client)
        receiver = Receiver(prefect, WebhookSecret(wavespeed), SnsVerifier(_fetch_with(http)), token)
        server = Server(receiver.app(), shutdown_seconds=SHUTDOWN_SECONDS)
        with listen(host, port) as listener:
            await prefect.check()  # logs it if Prefect is down or refuses access
            if sqs is None:
                await server.serve([listener])
                return
            queue = SqsQueue(sqs, prefect)
            await queue.check()
            receiver.health_checks.append(lambda: queue.problem)
            async with asyncio.TaskGroup() as group:
                group.create_task(queue.run(server.stopping))
                group.create_task(server.serve([listener]))


def _fetch_with(http: httpx.AsyncClient) -> Fetch:
    async def fetch(url: str) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(_FETCH_SECONDS), http.stream("GET", url) as answer:
                if not answer.is_success:
                    raise UnavailableError(f"Amazon SNS answered HTTP {answer.status_code}")
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_FETCHED:
                        raise UnavailableError(f"Amazon SNS answered with over {_MAX_FETCHED:,} bytes")
        except FAILURES as error:
            raise UnavailableError(f"Amazon SNS cannot be reached: {type(error).__name__}") from None
        return bytes(body)

    return fetch
