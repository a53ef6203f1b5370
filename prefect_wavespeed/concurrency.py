"""The one way to do the same to many things at once, with a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_T = TypeVar("_T")


async def for_each(
    work: Callable[[_Item], Awaitable[object]],
    items: Iterable[_Item] | AsyncIterable[_Item],
    limit: int | asyncio.Semaphore,
) -> None:
    """Do the work for each item, at most ``limit`` at once, and return when all of it is done.

    An item is taken from ``items`` as soon as all before it have begun. The first error stops the taking,
    cancels what has begun, and is raised as it is (no exception group).

    Args:
        work: what to do with an item; its result is not kept.
        items: any iterable, asynchronous ones too; it may be endless or slow.
        limit: a number, or a semaphore that several calls share.
    """
    slots = asyncio.Semaphore(limit) if isinstance(limit, int) else limit
    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            async for item in _stream(items):
                await slots.acquire()
                task = group.create_task(_begin(work, item))
                # not in the task itself: one that is cancelled before it starts never runs its finally
                task.add_done_callback(lambda _: slots.release())
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:  # raised out here, it keeps its own context
        raise first


async def map_all(
    work: Callable[[_Item], Awaitable[_T]], items: Iterable[_Item] | AsyncIterable[_Item], limit: int
) -> list[_T]:
    """Return the results for all items, in the items' order; otherwise as ``for_each``."""
    results: dict[int, _T] = {}

    async def one(numbered: tuple[int, _Item]) -> None:
        results[numbered[0]] = await work(numbered[1])

    await for_each(one, _numbered(items), limit)
    return [results[number] for number in range(len(results))]


async def map_stream(
    work: Callable[[_Item], Awaitable[_T]], items: Iterable[_Item] | AsyncIterable[_Item], limit: int
) -> AsyncGenerator[_T, None]:
    """Yield the result for each item, in the items' order, while the next ``limit`` ones are being worked on.

    For streams too long to hold. An error is raised in its turn; close the generator (``aclosing``) to
    cancel what has begun.
    """
    window: deque[asyncio.Task[_T]] = deque()
    try:
        async for item in _stream(items):
            window.append(asyncio.create_task(_begin(work, item)))
            if len(window) >= limit:
                yield await window[0]
                window.popleft()
        while window:
            yield await window[0]
            window.popleft()
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


async def _begin(work: Callable[[_Item], Awaitable[_T]], item: _Item) -> _T:
    return await work(item)  # a coroutine made outside of the task would be left over if that never started


async def _stream(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncGenerator[_Item, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _numbered(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncGenerator[tuple[int, _Item], None]:
    number = 0
    async for item in _stream(items):
        yield number, item
        number += 1


class Room:
    """Room for so many bytes, or whatever is counted, in one event loop; who comes first is served first.

    Args:
        size: how much there is. What needs more gets all of it.
    """

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._waiting: deque[tuple[int, asyncio.Event]] = deque()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Wait for an amount, and give it back afterwards."""
        amount = min(amount, self._size)
        turn = amount, asyncio.Event()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn[1].wait()
            yield
        finally:
            if turn[1].is_set():
                self._free += amount
            else:
                self._waiting.remove(turn)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            amount, admitted = self._waiting.popleft()
            self._free -= amount
            admitted.set()


def run_to_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine from sync code, also where an event loop runs already, as in a notebook."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
