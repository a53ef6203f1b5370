"""How fast this process may submit: its slots in flight and its turns, as the `WaveSpeed` block says.

Runs that share an account share its slots through a Prefect global concurrency limit. Asking the server
for each image would be far too slow, so slots are leased in blocks: as many blocks as are needed, given
back when they are not, when this process ends, and now and then so that other runs get their share. The
lease of a process that is killed runs out by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.concurrency.context import ConcurrencyContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import ConfigurationError, redact

_BLOCKS = 8  # that the whole allowance is leased in
_LEASE_SECONDS = 120.0
_SHARE_SECONDS = 60.0  # after which a block goes back where others may be waiting
_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 5.0


class _Slots:
    """A semaphore whose size may change while it is in use. First come, first served."""

    def __init__(self, size: int) -> None:
        self._free = size  # below 0: so many in use are withdrawn as soon as they are given back
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One slot."""
        if self._free > 0:
            self._free -= 1
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it was handed over at the last moment
                    self.add(1)
                raise
        try:
            yield
        finally:
            self.add(1)

    def add(self, count: int) -> None:
        """Add slots, or give one back."""
        self._free += count
        while self._free > 0 and self._waiting:
            if not (turn := self._waiting.popleft()).done():
                self._free -= 1
                turn.set_result(None)
        if self._free >= 0:
            self._settled.set()

    def withdraw(self, count: int) -> None:
        """Take slots away at once; those in use as soon as they are given back."""
        self._free -= count
        if self._free < 0:
            self._settled.clear()

    async def settled(self) -> None:
        """Wait until no more are in use than there are."""
        if self._free < 0:
            await self._settled.wait()


class Allowance:
    """The slots and turns of one `WaveSpeed` block, for all runs of this event loop."""

    def __init__(self, requests_per_minute: int | None, slots: int | None, limit: str | None = None) -> None:
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._limit = limit
        self._most = slots
        self._slots = _Slots(0 if limit else slots or 0)
        self._size = max(1, (slots or 1) // _BLOCKS)
        self._wanted = 0
        self._asked = 0  # slots in all blocks, those being waited for included
        self._leased = 0
        self._blocks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, block: WaveSpeed) -> Allowance:
        """What a block allows.

        Raises:
            ConfigurationError: the global concurrency limit that it names does not exist, or is 0.
        """
        slots = block.max_in_flight
        if block.concurrency_limit is None:
            return cls(block.requests_per_minute, slots)
        name = f"WaveSpeed block: concurrency_limit {block.concurrency_limit}"
        try:
            async with get_client() as client:
                there = await client.read_global_concurrency_limit_by_name(block.concurrency_limit)
        except ObjectNotFound:
            raise ConfigurationError(
                f"{name} does not exist: make it with `restyle setup --tier …` or "
                f"`prefect gcl create {block.concurrency_limit} --limit N`"
            ) from None
        if there.limit < 1:
            raise ConfigurationError(f"{name} is {there.limit}: nothing may be in flight: raise it")
        return cls(block.requests_per_minute, min(there.limit, slots or there.limit), block.concurrency_limit)

    async def close(self) -> None:
        """Give all slots back."""
        self._closed = True
        for block in self._blocks:
            block.cancel()
        await asyncio.gather(*self._blocks, return_exceptions=True)

    async def turn(self) -> None:
        """Wait for the next submission that ``requests_per_minute`` allow, evenly spaced."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One slot in flight, waited for when all are taken: first come, first served."""
        if self._most is None:
            yield
            return
        self._wanted += 1
        self._lease_what_is_wanted()
        try:
            async with self._slots.one():
                yield
        finally:
            self._wanted -= 1

    def _lease_what_is_wanted(self) -> None:
        """Start leasing until the blocks, those being waited for included, are enough."""
        if self._limit is None or self._most is None:
            return
        while self._asked < min(self._wanted, self._most):
            size = min(self._size, self._most - self._asked)
            self._asked += size
            block = asyncio.create_task(self._block(self._limit, size), context=_own_context())
            self._blocks.add(block)
            block.add_done_callback(self._gone)

    def _gone(self, block: asyncio.Task[None]) -> None:
        self._blocks.discard(block)
        if not self._closed:
            self._lease_what_is_wanted()

    async def _block(self, limit: str, size: int) -> None:
        leased = False
        try:
            async with concurrency(limit, occupy=size, strict=True, lease_duration=_LEASE_SECONDS):
                leased = True
                self._leased += size
                self._slots.add(size)
                await self._needed(limit, size)
                leased = self._withdraw(size)
                await self._slots.settled()  # the lease goes back when its predictions have ended
        except (Exception, asyncio.CancelledError) as error:
            # Prefect cannot be reached, or the limit is gone; a lease that was lost comes as a cancellation
            if leased:
                self._withdraw(size)
            if self._closed:
                raise
            get_logger("restyle").warning(
                "no slots in flight from %s now: %s", limit, redact(error) or "the lease was lost"
            )
            await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            self._asked -= size

    def _withdraw(self, size: int) -> bool:
        self._leased -= size
        self._slots.withdraw(size)
        return False

    async def _needed(self, limit: str, size: int) -> None:
        """Return when the block is not needed any more, or others should have their share."""
        since = time.monotonic()
        idle = 0
        while idle < 2:
            await asyncio.sleep(_LOOK_SECONDS)
            idle = idle + 1 if self._leased - size >= self._wanted else 0
            if time.monotonic() - since > _SHARE_SECONDS:
                if await _is_used_up(limit):
                    return
                since = time.monotonic()


def _own_context() -> Context:
    """A context in which leases are nobody's: Prefect gives back those of a task run when that ends."""
    context = copy_context()
    context.run(ConcurrencyContext.__var__.set, None)  # type: ignore[arg-type]  # as get() may return it
    return context


async def _is_used_up(limit: str) -> bool:
    async with get_client() as client:
        there = await client.read_global_concurrency_limit_by_name(limit)
    return there.active_slots >= there.limit
