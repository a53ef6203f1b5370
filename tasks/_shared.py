"""Resources that all tasks of an event loop share: opened for the first user, closed after the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from anyio import CancelScope

_T = TypeVar("_T")


class _Resource(Generic[_T]):
    """A resource and the asyncio task that opens and closes it.

    That task belongs to no user, so a user that is cancelled neither breaks what others wait for nor leaves
    anything open. Opening and closing also happen in one task, as anyio's cancel scopes require.
    """

    def __init__(self, open_: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        self.users = 0
        self._is_open = False
        self._opened_or_failed = asyncio.Event()
        self._unused = asyncio.Event()
        self._owner = asyncio.create_task(self._own(open_))
        self._value: _T

    async def _own(self, open_: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        try:
            async with open_() as self._value:
                self._is_open = True
                self._opened_or_failed.set()
                await self._unused.wait()
        finally:
            self._opened_or_failed.set()

    async def opened(self) -> _T:
        """Wait until it is open; raises what kept it from opening."""
        await self._opened_or_failed.wait()
        if not self._is_open:
            self._owner.result()
        return self._value

    async def close(self) -> None:
        """Close it, or stop opening it. A cancellation meanwhile is raised once it is closed."""
        self._unused.set()
        if not self._opened_or_failed.is_set():
            self._owner.cancel()
        cancelled: asyncio.CancelledError | None = None
        with CancelScope(shield=True):  # anyio's timeouts would cancel again in every turn of the event loop
            while not self._owner.done():
                try:
                    await asyncio.wait({self._owner})
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled:
            raise cancelled
        if self._is_open:
            self._owner.result()


_resources: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Resource[Any]]] = WeakKeyDictionary()


@asynccontextmanager
async def shared(key: Hashable, open_: Callable[[], AbstractAsyncContextManager[_T]]) -> AsyncIterator[_T]:
    """Use the resource of this key; once nobody uses it, the next user opens it anew.

    Args:
        key: what it is, within the event loop that runs.
        open_: opens it where it is not open; closing must end by itself, for nothing cancels it.
    """
    resources = _resources.setdefault(asyncio.get_running_loop(), {})
    resource = resources.get(key)
    if resource is None:
        resource = resources[key] = _Resource(open_)
    resource.users += 1
    try:
        yield await resource.opened()
    finally:
        resource.users -= 1
        if not resource.users:
            del resources[key]
            await resource.close()
