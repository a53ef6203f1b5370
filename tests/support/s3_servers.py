"""S3 and SQS on loopback: moto in a process of its own, and a proxy that does what networks do."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import boto3
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_ROOT = Path(__file__).resolve().parents[2]
_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length")


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server listens, and a bucket on it."""

    endpoint: str
    bucket: str = "restyle"
    access_key: str = "test"
    secret_key: str = field(default="test", repr=False)
    region: str = "us-east-1"

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment so that ``s3://`` means this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def session(self) -> boto3.Session:
        """A boto3 session for it; it says nothing of the endpoint."""
        return boto3.Session(
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )

    def client(self) -> S3Client:
        """A boto3 client for it."""
        return self.session().client("s3", endpoint_url=self.endpoint)

    def queues(self) -> SQSClient:
        """A boto3 client for its queues, where it has any."""
        return self.session().client("sqs", endpoint_url=self.endpoint)


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto with an empty bucket, gone afterwards."""
    command = [sys.executable, "-m", "tests.support.s3_servers"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdin
        server = S3Server(process.stdout.readline().strip())
        server.client().create_bucket(Bucket=server.bucket)
        try:
            yield server
        finally:
            process.stdin.close()


def serve_moto() -> None:
    """Serve S3 and SQS until standard input closes, so also when whoever started this was killed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *facts: object) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def answer(environ: Any, body: bytes) -> tuple[tuple[Any, ...], list[bytes]]:
        started: list[tuple[Any, ...]] = []
        given = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        # moto looks whether an object is there, and then puts it: on S3 nothing comes between the two.
        with one_at_a_time:
            said = list(moto(given, lambda *head: started.append(head)))
        return started[0], said

    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        wait = 0.0
        if environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.ReceiveMessage":  # waits here: moto would block
            asked = json.loads(body)
            wait = asked.pop("WaitTimeSeconds", 0)
            body = json.dumps(asked).encode()
        give_up = time.monotonic() + wait
        head, said = answer(environ, body)
        while wait and b"".join(said) == b"{}" and time.monotonic() < give_up:
            time.sleep(0.05)
            head, said = answer(environ, body)
        start_response(*head)
        return said

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.port}", flush=True)
    sys.stdin.read()


@dataclass
class Mischief:
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
        mischief: what else it does.
        seen: the requests that reached it, as ``METHOD path``.
        asked: the same, as they were sent: method, path with query, body.
    """

    upstream: str
    endpoint: str = ""
    ignore_conditions: bool = False
    page: int = 0
    ahead: float = 0
    mischief: list[Mischief] = field(default_factory=list)
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
        mischief = self._pick(request)
        if mischief == "refuse":
            return web.Response(status=503)
        if mischief == "conflict":
            return web.Response(status=409, text="<Error><Code>ConditionalRequestConflict</Code></Error>")
        if mischief == "forbid":
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        if mischief == "down":
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
        if mischief == "drop" and request.transport:
            request.transport.abort()
        if mischief == "fail":
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
        if mischief == "down_after":
            await response.prepare(request)
            await response.write_eof()
            self._go_down(request)
        return response

    def _go_down(self, request: web.Request) -> None:
        if request.transport:
            request.transport.abort()
        self._falling = self._loop.create_task(self._down())  # not by this request: it would wait for itself

    def _pick(self, request: web.Request) -> str | None:
        for mischief in self.mischief:
            fits = request.method == mischief.method and request.path.endswith(mischief.path)
            if fits and mischief.times > 0:
                mischief.times -= 1
                return mischief.what
        return None


@contextmanager
def proxy(upstream: S3Server, *mischief: Mischief) -> Iterator[tuple[Proxy, S3Server]]:
    """A proxy before a server, and the server as it is seen through it."""
    before = Proxy(upstream.endpoint, mischief=[replace(some) for some in mischief])  # they count down
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


if __name__ == "__main__":
    serve_moto()
