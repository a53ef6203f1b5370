"""A proxy in front of an S3 server that does what networks and other stores do."""

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
        what: ``refuse`` answers 503, ``conflict`` 409 and ``forbid`` 403 without passing it on; ``down`` cuts
            all connections and refuses new ones from here on. ``drop``, ``fail`` and ``down_after`` pass it
            on, and then cut the connection, answer 500 instead of what the server said, or answer and then go
            down.
        method: of the request.
        path: what the path must end with.
        times: how often; it counts down.
    """

    what: Literal["refuse", "conflict", "forbid", "down", "drop", "fail", "down_after"]
    method: str
    path: str
    times: int = 1


@dataclass
class Proxy:
    """An HTTP proxy in front of an S3 server, listening on a port of its own.

    Attributes:
        endpoint: where it listens.
        ignore_conditions: take ``If-None-Match`` away from every request, as a store that ignores it does.
        page: how many objects a page of a listing has, instead of 1,000.
        ahead: by how many seconds the times in its answers are ahead.
        faults: what else it does.
        seen: the requests that reached it, as ``METHOD path``.
        asked: the same, as they were sent: method, path with query, body.
    """

    upstream: str
    endpoint: str = ""
    ignore_conditions: bool = False
    page: int = 0
    ahead: float = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _runner: web.AppRunner | None = None
    _port: int = 0
    _falling: asyncio.Task[None] | None = None

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
        app.router.add_route("*", "/{path:.*}", self._pass_on)
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

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path}")
        self.asked.append((request.method, request.raw_path, await request.read()))
        faults = self._pick(request)
        if faults == "refuse":
            return web.Response(status=503)
        if faults == "conflict":
            return web.Response(status=409, text="<Error><Code>ConditionalRequestConflict</Code></Error>")
        if faults == "forbid":
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        if faults == "down":
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
        if faults == "drop" and request.transport:
            request.transport.abort()
        if faults == "fail":
            return web.Response(status=500)
        told = answer.headers.copy()
        for name in _HOP_BY_HOP:
            told.popall(name, None)
        for name in ("Date", "Last-Modified"):
            if self.ahead and name in told:
                moment = parsedate_to_datetime(told[name]) + timedelta(seconds=self.ahead)
                told[name] = format_datetime(moment, usegmt=True)
        if request.method == "HEAD":  # its length is that of the object
            told.extend({"Content-Length": answer.headers.get("Content-Length", "0")})
        response = web.Response(status=answer.status, headers=told, body=body)
        if faults == "down_after":
            await response.prepare(request)
            await response.write_eof()
            self._go_down(request)
        return response

    def _go_down(self, request: web.Request) -> None:
        if request.transport:
            request.transport.abort()
        self._falling = self._loop.create_task(self._down())  # not by this request: it would wait for itself

    def _pick(self, request: web.Request) -> str | None:
        for faults in self.faults:
            fits = request.method == faults.method and request.path.endswith(faults.path)
            if fits and faults.times > 0:
                faults.times -= 1
                return faults.what
        return None


@contextmanager
def proxy(upstream: S3Server, *faults: Fault) -> Iterator[tuple[Proxy, S3Server]]:
    """A proxy before a server, and the server as it is seen through it."""
    before = Proxy(upstream.endpoint, faults=[replace(some) for some in faults])  # they count down
    thread = threading.Thread(target=before._loop.run_forever, daemon=True)
    thread.start()
    try:
        before.up()
        yield before, replace(upstream, endpoint=before.endpoint)
    finally:
        before.down()
        before._loop.call_soon_threadsafe(before._loop.stop)
        thread.join(10)
        before._loop.close()
