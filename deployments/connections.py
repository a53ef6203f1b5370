"""Connections to a server that strangers can reach."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS = 128
"""Each may hold some 300 kB, and `/health` waits for all that are ready in a turn of the event loop."""
ACCEPTED_AT_ONCE = 32
"""Small, so that a new connection is read from before as many as `MAX_CONNECTIONS` have come after it."""
BACKLOG = 2048
"""Connections that wait in the kernel to be accepted; one that finds no room comes again after a second."""

_HEAD_SECONDS = 10.0
# Of a body that is still coming after its request has been answered: closing at once would lose the answer.
_MAX_READ = 1 << 20  # bytes, after which another request may follow
_MAX_REST = 32 << 20  # bytes in all
# Of a request: its headers, and two for each part of a body in parts. To read a part of one byte takes as
# long as to read one of thousands.
_MAX_LINES = 2_000


class BoundedConnection(H11Protocol):
    """A connection on which a request has to arrive in time.

    Beyond ``MAX_CONNECTIONS`` the oldest one is closed whose request has not arrived completely, so that a
    new one is served however many are held open. uvicorn bounds neither: its ``limit_concurrency`` counts
    silent connections, too, and refuses everybody.
    """

    _deadline: asyncio.TimerHandle
    _opened_at: float
    _rest: int
    _lines: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, at the cost of another connection where there are too many."""
        super().connection_made(transport)
        self._opened_at = self.loop.time()
        self._expect_request()
        if len(self.connections) > MAX_CONNECTIONS:
            others: list[Any] = [each for each in self.connections if each._is_incomplete]  # type: ignore[union-attr]
            min(others, key=lambda each: each._opened_at, default=self)._abort()

    def data_received(self, data: bytes) -> None:
        """Read what has come, unless it is the rest of a large body whose request has been answered."""
        if self._is_idle:
            self._rest += len(data)
            if self._rest > _MAX_READ:
                if self._rest > _MAX_REST:
                    self._abort()
                elif not self.transport.is_closing():
                    self.transport.write_eof()  # so that no other request is sent here
                return
        self._lines += data.count(b"\r\n")
        if self._lines > _MAX_LINES:
            self._abort()
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._deadline.cancel()
        self._expect_request()
        super().on_response_complete()

    def _expect_request(self) -> None:
        self._rest = self._lines = 0
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self._end_unless_busy)

    def _end_unless_busy(self) -> None:
        if self._is_idle:
            self._abort()

    @property
    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    @property
    def _is_incomplete(self) -> bool:
        return self._is_idle or self.cycle.more_body

    def _abort(self) -> None:
        self.connections.discard(self)
        self.transport.abort()
