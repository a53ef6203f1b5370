"""A proxy in front of an S3 server that fails as networks and other stores do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Literal

import aiohttp
from aiohttp import web
from yarl import URL

from tests.support.s3_servers import S3Server

_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length")


@dataclass
class Fault:
    """What a proxy does to a request, and how often.

    Attributes:
        kind: ``refuse`` answers 503, ``conflict`` 409 and ``forbid`` 403 without forwarding the request;
            ``down`` cuts all connections and refuses new ones from then on. ``drop``, ``fail`` and
            ``down_after`` forward it, and then cut the connection, answer 500 instead of the server's
            response, or respond and then go down.
        method: of the requests.
        path: what their paths end with.
        times: how many of them; it counts down.
    """

    kind: Literal["refuse", "conflict", "forbid", "down", "drop", "fail", "down_after"]
    method: str
    path: str
    times: int = 1


@dataclass
class Proxy:
    """An HTTP proxy in front of an S3 server, listening on a port of its own.

    Attributes:
        endpoint: its address.
        ignore_conditions: remove ``If-None-Match`` from every request, as if the store ignored it.
        page: objects on a page of a listing, instead of 1,000.
        listings_are_kept: a listing that begins after a key is answered as it was the first time; a job's own
            folder is listed from its beginning, and has to be as it is.
        ahead: seconds by which the times in its responses are ahead.
        faults: what else it does.
        request_lines: the requests that reached it, as ``METHOD path``.
        requests: the same as method, path with query, and body.
    """

    upstream: str
    endpoint: str = ""
    ignore_conditions: bool = False
    page: int = 0
    listings_are_kept: bool = False
    ahead: float = 0
    faults: list[Fault] = field(default_factory=list)
    request_lines: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _runner: web.AppRunner | None = None
    _port: int = 0
    _listings: dict[str, bytes] = field(default_factory=dict)
    _going_down: asyncio.Task[None] | None = None

    def up(self) -> None:
        """Accept connections, if it is down."""
        asyncio.run_coroutine_threadsafe(self._up(), self._loop).result(10)

    def down(self) -> None:
        """Cut all connections and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._down(), self._loop).result(10)

    async def _up(self) -> None:
        if self._runner:
            return
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    async def _down(self) -> None:
        if runner := self._runner:
            self._runner = None
            await runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self.request_lines.append(f"{request.method} {request.path}")
        self.requests.append((request.method, request.raw_path, await request.read()))
        fault = self._take_fault(request)
        if fault == "refuse":
            return web.Response(status=503)
        if fault == "conflict":
            return web.Response(status=409, text="<Error><Code>ConditionalRequestConflict</Code></Error>")
        if fault == "forbid":
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        if fault == "down":
            self._go_down(request)
        headers = request.headers.copy()
        if self.ignore_conditions:
            headers.pop("If-None-Match", None)
        page = f"&max-keys={self.page}" if self.page and "list-type" in request.query else ""
        url = URL(self.upstream + request.raw_path + page, encoded=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False, trust_env=False) as session,
            session.request(
                request.method, url, headers=headers, data=await request.read(), allow_redirects=False
            ) as answer,
        ):
            body = await answer.read()
        if self.listings_are_kept and "start-after" in request.query:
            body = self._listings.setdefault(request.raw_path, body)
        if fault == "drop" and request.transport:
            request.transport.abort()
        if fault == "fail":
            return web.Response(status=500)
        response_headers = answer.headers.copy()
        for name in _HOP_BY_HOP:
            response_headers.popall(name, None)
        for name in ("Date", "Last-Modified"):
            if self.ahead and name in response_headers:
                moment = parsedate_to_datetime(response_headers[name]) + timedelta(seconds=self.ahead)
                response_headers[name] = format_datetime(moment, usegmt=True)
        if request.method == "HEAD":  # its length is that of the object
            response_headers.extend({"Content-Length": answer.headers.get("Content-Length", "0")})
        response = web.Response(status=answer.status, headers=response_headers, body=body)
        if fault == "down_after":
            await response.prepare(request)
            await response.write_eof()
            self._go_down(request)
        return response

    def _go_down(self, request: web.Request) -> None:
        if request.transport:
            request.transport.abort()
        # in a task of its own: this request would wait for itself
        self._going_down = self._loop.create_task(self._down())

    def _take_fault(self, request: web.Request) -> str | None:
        for fault in self.faults:
            matches = request.method == fault.method and request.path.endswith(fault.path)
            if matches and fault.times > 0:
                fault.times -= 1
                return fault.kind
        return None


@contextmanager
def proxy(upstream: S3Server, *faults: Fault) -> Iterator[tuple[Proxy, S3Server]]:
    """Run a proxy in front of a server; gives the proxy, and the server by the proxy's address."""
    running = Proxy(upstream.endpoint, faults=[replace(fault) for fault in faults])  # they count down
    thread = threading.Thread(target=running._loop.run_forever, daemon=True)
    thread.start()
    try:
        running.up()
        yield running, replace(upstream, endpoint=running.endpoint)
    finally:
        running.down()
        running._loop.call_soon_threadsafe(running._loop.stop)
        thread.join(10)
        running._loop.close()
