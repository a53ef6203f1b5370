"""Bodies of requests: bounded each, bounded together, and given up where they do not arrive."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_BODY_BYTES = 1 << 20

_MAX_ARRIVING_BYTES = 32 << 20
_BODY_SECONDS = 10.0


class Bodies:
    """Reads bodies. Where too much has arrived of those that are incomplete, the oldest one is given up."""

    def __init__(self) -> None:
        self._arriving: dict[asyncio.Timeout, int] = {}  # the oldest first
        self._bytes = 0

    async def read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            HTTPException: it is too large (413), or did not arrive in time (408).
        """
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS) as deadline:
                self._arriving[deadline] = 0
                try:
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > MAX_BODY_BYTES:
                            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
                        self._count(deadline, len(chunk))
                finally:
                    self._forget(deadline)
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from None
        return bytes(body)

    def _count(self, deadline: asyncio.Timeout, size: int) -> None:
        if deadline in self._arriving:  # else it was given up, and ends at its next turn
            self._arriving[deadline] += size
            self._bytes += size
        if self._bytes > _MAX_ARRIVING_BYTES:
            oldest = next(iter(self._arriving))
            self._forget(oldest)
            oldest.reschedule(0)

    def _forget(self, deadline: asyncio.Timeout) -> None:
        self._bytes -= self._arriving.pop(deadline, 0)
