"""How fast this process may submit: the slots in flight and the pace that a `WaveSpeed` block allows.

Runs that share an account share its slots through a Prefect global concurrency limit. Asking the server for
each image would be far too slow, so slots are leased several at a time: as many leases as are needed. A lease
goes back when it is no longer needed, when this process ends, and once a minute while other runs may be
waiting for slots. The leases of a process that is killed expire by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from math import inf

from anyio import CapacityLimiter, move_on_after
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.concurrency.context import ConcurrencyContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import ConfigurationError, NoSlotError, redact
from prefect_wavespeed.tasks.context import current_batch

_LEASES = 8  # that all slots are divided into
_LEASE_SECONDS = 120.0
_SHARE_SECONDS = 60.0  # after which a lease goes back if the limit is used up
_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_QUIET_SECONDS = 10.0  # without any slot, before that is said, and between looks at it
_LONGEST_WAIT = 900.0  # without any slot, until the wait is given up
_CLOSE_SECONDS = 5.0  # for giving leases back, which expire anyway
_FREE_THEM = "if no run is running, `restyle doctor --fix` frees them"


class Allowance:
    """The slots and the pace of one `WaveSpeed` block, for all runs of an event loop.

    Args:
        requests_per_minute: submissions; None for no limit.
        max_slots: predictions in flight; None for no limit.
        limit: global concurrency limit from which slots are leased; None if this process has them to itself.
    """

    def __init__(
        self, requests_per_minute: int | None, max_slots: int | None, limit: str | None = None
    ) -> None:
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_submission = 0.0
        self._limit = limit
        self._max_slots = max_slots or inf
        self._slots = CapacityLimiter(0 if limit else self._max_slots)
        self._needed = 0  # slots in use or waited for
        self._requested = 0  # slots in all leases, those not granted yet included
        self._leased = 0  # slots in granted leases
        self._covered = asyncio.Event()  # set while the granted leases cover the slots in use
        self._leases: set[asyncio.Task[None]] = set()
        self._closed = False
        self._empty_since = time.monotonic()  # when the last slot was lost; inf while there are some
        self._said_at = -inf
        self._is_gone = False  # the limit, when it was last looked for

    @classmethod
    @asynccontextmanager
    async def open(cls, block: WaveSpeed) -> AsyncIterator[Allowance]:
        """What a block allows; all leases go back at the end of the context.

        Raises:
            ConfigurationError: the global concurrency limit that it names does not exist, or is 0.
        """
        max_slots = block.max_in_flight
        if block.concurrency_limit:
            limit = await _read_limit(block.concurrency_limit)
            max_slots = min(limit, max_slots or limit)
        allowance = cls(block.requests_per_minute, max_slots, block.concurrency_limit)
        try:
            yield allowance
        finally:
            await allowance._close()

    async def _close(self) -> None:
        self._closed = True
        leases = list(self._leases)
        for _ in range(2):  # the second time for those that cannot be given back, as the server is away
            for lease in leases:
                lease.cancel()
            if leases:
                await asyncio.wait(leases, timeout=_CLOSE_SECONDS)

    async def pace(self) -> None:
        """Wait until the next submission may go out; they are spaced evenly."""
        now = time.monotonic()
        at = max(now, self._next_submission)
        self._next_submission = at + self._interval
        await asyncio.sleep(at - now)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A slot in flight; waits, first come first served, while all are in use."""
        self._needed += 1
        self._request_leases()
        holder = object()  # not the asyncio task: it may hold several
        try:
            await self._acquire(holder)
            try:
                yield
            finally:
                self._slots.release_on_behalf_of(holder)
                self._check_covered()
        finally:
            self._needed -= 1

    async def _acquire(self, holder: object) -> None:
        """Wait for a slot. While this process has none at all, say so, and give up in the end.

        Raises:
            NoSlotError: there was none for a quarter of an hour, since this began or in all.
            StoppedError: the batch submits nothing more.
            ConfigurationError: the limit has been deleted.
        """
        while True:
            with move_on_after(_QUIET_SECONDS if self._limit else None) as waiting:
                await self._slots.acquire_on_behalf_of(holder)
            if not waiting.cancelled_caught:
                return
            if batch := current_batch.get():
                batch.gate.check_open()  # nothing may free a slot any more
            empty = time.monotonic() - self._empty_since
            if empty >= _LONGEST_WAIT:
                raise NoSlotError(
                    f"concurrency limit {self._limit}: none of its slots has become free in "
                    f"{_LONGEST_WAIT / 60:g} minutes: nothing was submitted: {_FREE_THEM}",
                    retry_after=_LONGEST_WAIT,
                )
            if empty >= _QUIET_SECONDS and self._limit:
                await self._say_waiting(self._limit)

    async def _say_waiting(self, limit: str) -> None:
        """Once a minute, for all that wait: look whether the limit is still there, and say what for."""
        now = time.monotonic()
        if now - self._said_at >= _SHARE_SECONDS:
            self._said_at = now
            self._is_gone = await _is_gone(limit)
        elif not self._is_gone:
            return
        if self._is_gone:
            raise _missing(limit)
        get_logger("restyle").warning(
            "waiting for the concurrency limit %s: other runs use all its slots; %s", limit, _FREE_THEM
        )

    def _request_leases(self) -> None:
        """Request leases until those granted and requested cover what is needed."""
        if self._limit is None:
            return
        most = int(self._max_slots)
        while self._requested < min(self._needed, most):
            size = min(max(1, most // _LEASES), most - self._requested)
            self._requested += size
            lease = asyncio.create_task(self._lease(self._limit, size), context=_own_context())
            self._leases.add(lease)
            lease.add_done_callback(self._lease_ended)

    def _lease_ended(self, lease: asyncio.Task[None]) -> None:
        self._leases.discard(lease)
        if not self._closed:
            self._request_leases()

    async def _lease(self, limit: str, size: int) -> None:
        """Hold a lease for as long as it is needed; after an error, retry a little later."""
        granted = False
        try:
            async with concurrency(limit, occupy=size, strict=True, lease_duration=_LEASE_SECONDS):
                self._add_slots(size)
                granted = True
                await self._until_not_needed(limit, size)
                self._add_slots(-size)
                granted = False
                await self._covered.wait()  # its predictions have to end first
        except (Exception, asyncio.CancelledError) as error:
            # Prefect cannot be reached, or the limit was deleted; a lost lease arrives as a cancellation
            if granted:
                self._add_slots(-size)
            if self._closed:
                raise
            reason = redact(error) or "the lease was lost"
            get_logger("restyle").warning("concurrency limit %s: no slots now: %s", limit, reason)
            await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._requested -= size

    def _add_slots(self, count: int) -> None:
        self._leased += count
        self._slots.total_tokens = self._leased
        self._empty_since = inf if self._leased else time.monotonic()
        self._check_covered()

    def _check_covered(self) -> None:
        if self._slots.borrowed_tokens <= self._slots.total_tokens:
            self._covered.set()
        else:
            self._covered.clear()

    async def _until_not_needed(self, limit: str, size: int) -> None:
        """Return once the other leases suffice, or it is time to let other runs have a share."""
        since = time.monotonic()
        checks_unneeded = 0
        while checks_unneeded < 2:
            await asyncio.sleep(_CHECK_SECONDS)
            checks_unneeded = checks_unneeded + 1 if self._leased - size >= self._needed else 0
            if time.monotonic() - since > _SHARE_SECONDS:
                if await _is_used_up(limit):
                    return
                since = time.monotonic()


def _own_context() -> Context:
    """A context for leases that no task run owns: Prefect releases a task run's leases when that ends."""
    context = copy_context()
    context.run(ConcurrencyContext.__var__.set, None)  # type: ignore[arg-type]  # as get() may return it
    return context


async def _read_limit(name: str) -> int:
    try:
        async with get_client() as client:
            limit = (await client.read_global_concurrency_limit_by_name(name)).limit
    except ObjectNotFound:
        raise _missing(name) from None
    if limit < 1:
        raise ConfigurationError(
            f"WaveSpeed block: concurrency_limit {name} is {limit}, so nothing may be in flight: raise it "
            f"with `prefect gcl update {name} --limit N`"
        )
    return limit


def _missing(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"WaveSpeed block: concurrency_limit {name} does not exist: create it with "
        f"`restyle setup --tier …` or `prefect gcl create {name} --limit N`"
    )


async def _is_gone(limit: str) -> bool:
    """Whether a limit has been deleted; not where Prefect does not say."""
    try:
        async with asyncio.timeout(_RETRY_SECONDS), get_client() as client:
            await client.read_global_concurrency_limit_by_name(limit)
    except ObjectNotFound:
        return True
    except Exception:  # Prefect is away
        return False
    return False


async def _is_used_up(limit: str) -> bool:
    async with get_client() as client:
        current = await client.read_global_concurrency_limit_by_name(limit)
    return current.active_slots >= current.limit
