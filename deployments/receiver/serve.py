"""The receiver as a process: started, told to stop, and stopped when what is in hand is done."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from types import FrameType

from prefect_wavespeed.deployments.prefect_runtime import quieten

quieten()
# The sender tries again; meanwhile its request is not kept waiting by tries of our own.
os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "0"

import httpx  # noqa: E402
import uvicorn  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.settings import get_current_settings  # noqa: E402

from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET  # noqa: E402
from prefect_wavespeed.deployments.receiver.app import Receiver  # noqa: E402
from prefect_wavespeed.deployments.receiver.prefect_api import PrefectApi  # noqa: E402
from prefect_wavespeed.deployments.receiver.queue import Queue  # noqa: E402
from prefect_wavespeed.deployments.receiver.secrets import TOKEN_VARIABLE, WebhookSecret, load_token  # noqa: E402
from prefect_wavespeed.deployments.receiver.sns import Fetch, Sns  # noqa: E402
from prefect_wavespeed.errors import ConfigurationError, UnavailableError  # noqa: E402

_FETCH_SECONDS = 5.0
_STOP_SECONDS = 20  # for requests under way, when told to stop


def run(host: str, port: int, sqs: str | None, wavespeed: str) -> int:
    """Receive until SIGTERM or SIGINT; says on stdout where it listens, and logs to stderr.

    Args:
        port: 0 takes a free one.
        sqs: URL of a queue to read as well.
        wavespeed: name of the `WaveSpeed` block whose webhooks come.

    Returns:
        The exit status: 0.

    Raises:
        ConfigurationError: something is missing; says what to do.
    """
    _log_to_stderr()
    asyncio.run(_receive(host, port, sqs, wavespeed))
    return 0


async def _receive(host: str, port: int, sqs: str | None, wavespeed: str) -> None:
    if not get_current_settings().api.url:  # Prefect would start a temporary server, and nobody would see it
        raise ConfigurationError(
            "no Prefect to hand events to: set PREFECT_API_URL, such as http://127.0.0.1:4200/api"
        )
    token = await load_token()
    if token is None and sqs is None:
        raise ConfigurationError(
            f"no token that senders must bear: set {TOKEN_VARIABLE}, or save it as the block "
            f"secret/{RECEIVER_TOKEN_SECRET}"
        )
    async with (
        get_client() as client,
        httpx.AsyncClient(timeout=_FETCH_SECONDS) as http,
    ):
        prefect = PrefectApi(client)
        receiver = Receiver(prefect, WebhookSecret(wavespeed), Sns(_fetch_with(http)), token)
        server = _Server(uvicorn.Config(
            receiver.app(),
            lifespan="off",
            log_config=None,
            access_log=False,  # a query may hold the token
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        ))  # fmt: skip
        with _listening(host, port) as listening:
            await prefect.look()  # to have it logged where Prefect is away or refuses
            if sqs is None:
                await server.serve([listening])
                return
            queue = Queue(sqs, prefect)
            await queue.check()
            receiver.watched.append(lambda: queue.trouble)
            async with asyncio.TaskGroup() as group:
                group.create_task(queue.run(server.stopping))
                group.create_task(server.serve([listening]))


class _Server(uvicorn.Server):
    """Ends with status 0 when told to stop, and tells others of it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn raises the signal anew when it is done: it must find somebody who does not mind
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.handle_exit)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            host, port = each.getsockname()[:2]
            print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self.stopping.set)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {said}: name another --port or --host"
        ) from None


def _fetch_with(http: httpx.AsyncClient) -> Fetch:
    async def fetch(url: str) -> bytes:
        try:
            answer = await http.get(url)
        except httpx.HTTPError as error:
            raise UnavailableError(f"Amazon SNS cannot be asked: {type(error).__name__}") from None
        if not answer.is_success:
            raise UnavailableError(f"Amazon SNS answered {answer.status_code}")
        return answer.content

    return fetch


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("prefect_wavespeed.deployments.receiver")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
