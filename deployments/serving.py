"""A server process: it listens, says where, and when it is stopped it finishes what is in progress."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType
from typing import IO

import uvicorn
from starlette.types import ASGIApp

from prefect_wavespeed.deployments.connections import ACCEPTED_AT_ONCE, BACKLOG, BoundedConnection
from prefect_wavespeed.errors import ConfigurationError

SHUTDOWN_SECONDS = 4
"""For requests in progress: a command ends within ten seconds of a signal."""


class Server(uvicorn.Server):
    """Serves an application until SIGTERM or SIGINT, after which the process goes on.

    Args:
        app: the application.
        shutdown_seconds: for requests in progress.
        said: what is printed once it listens; ``{url}`` is its address.
        stdout: where that is printed, if not to ``sys.stdout``.

    Attributes:
        stopping: set when it is stopped.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        shutdown_seconds: int,
        said: str = "listening on {url}",
        stdout: IO[str] | None = None,
    ) -> None:
        super().__init__(uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",  # no route is one, and an upgrade would leave the bounds
            backlog=ACCEPTED_AT_ONCE,
            lifespan="off",
            log_config=None,
            access_log=False,  # a query may contain the token
            server_header=False,
            timeout_graceful_shutdown=shutdown_seconds,
        ))  # fmt: skip
        self.stopping = asyncio.Event()
        self._said = said
        self._stdout = stdout
        self._loop = asyncio.get_running_loop()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and answer until a signal comes."""
        # uvicorn raises the signal again at the end: a handler of ours must be there to ignore it
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.handle_exit)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say where."""
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(BACKLOG)  # asyncio's value is also how many it accepts at once
            host, port = each.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(self._said.format(url=url), file=self._stdout, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note that a signal has come."""
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self.stopping.set)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: address to listen on.
        port: port to listen on; 0 picks a free one.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {reason}: choose another --port or --host"
        ) from None
