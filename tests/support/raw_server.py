"""A server that says exactly what a test wants, down to the bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]
Answer = bytes | Handler


class RawServer:
    """Keeps the requests that come, and answers each with the next of its answers, the last for ever.

    An answer is bytes to be sent as they are, or a coroutine function that gets the writer; the connection
    stays open after bytes and is closed after a coroutine.

    Args:
        answers: to all requests but those of ``history``.
        history: to those that ask for it, where it is given.
    """

    def __init__(self, *answers: Answer, history: bytes | None = None) -> None:
        self.answers = answers
        self.history = history
        self.requests: list[bytes] = []
        self.connections = 0
        self._open: set[asyncio.Task[None]] = set()

    @property
    def heads(self) -> list[str]:
        """The request lines, such as ``POST /x``."""
        return [" ".join(request.split(b" ", 2)[n].decode() for n in (0, 1)) for request in self.requests]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                if self.history is not None and head.startswith(b"POST /api/v3/predictions "):
                    writer.write(self.history)
                    await writer.drain()
                    continue
                self.requests.append(head + body)
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                if callable(answer):
                    await answer(writer)
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            writer.close()


def http(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """A whole HTTP answer; ``Retry_After="1"`` stands for a header."""
    body = body.encode() if isinstance(body, str) else body
    given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Said\r\nContent-Length: {len(body)}\r\n{given}\r\n".encode() + body


def answer(
    data: Any, *, status: int = 200, code: int = 200, message: str = "success", **headers: str
) -> bytes:
    """An answer in WaveSpeed's envelope."""
    return http(status, json.dumps({"code": code, "message": message, "data": data}), **headers)


async def drop(writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""


async def hang(writer: asyncio.StreamWriter) -> None:
    """Say nothing for a long time."""
    await asyncio.sleep(60)


async def drip(writer: asyncio.StreamWriter) -> None:
    """Say something all the time and never come to an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


def cut(whole: bytes, missing: int) -> Handler:
    """Send an answer but for its last bytes, then close the connection."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(whole[:-missing])
        await writer.drain()

    return send
