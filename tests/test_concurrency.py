from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from prefect_wavespeed.concurrency import Room, for_each, map_all, map_stream


class _Work:
    """Doubles numbers, and notes how much of it was done at once."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, number: int) -> int:
        self.begun.append(number)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(3 * (10 - number % 10)):  # the later, the quicker
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.running -= 1
        self.ended.append(number)
        return number * 2


async def _stream(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


async def _streamed(work: Any, items: Any, limit: int) -> list[Any]:
    return [result async for result in map_stream(work, items, limit)]


_MAPS: list[Callable[[Any, Any, int], Awaitable[list[Any]]]] = [map_all, _streamed]


@pytest.mark.parametrize("map_", _MAPS)
@pytest.mark.parametrize("items", [range(25), lambda: _stream(25)])
async def test_results_come_in_the_order_of_the_items(map_: Any, items: Any) -> None:
    work = _Work()
    assert await map_(work, items() if callable(items) else items, 10) == [n * 2 for n in range(25)]
    assert work.ended != sorted(work.ended)


@pytest.mark.parametrize("map_", [*_MAPS, for_each])
async def test_the_limit_is_reached_and_never_passed(map_: Any) -> None:
    work = _Work()
    await map_(work, range(50), 7)
    assert work.most == 7
    assert work.running == 0


@pytest.mark.parametrize("map_", [*_MAPS, for_each])
async def test_nothing_to_do_is_done(map_: Any) -> None:
    assert not await map_(_Work(), [], 3)


@pytest.mark.parametrize("map_", [*_MAPS, for_each])
async def test_the_first_error_is_raised_as_it_is_and_ends_the_rest(map_: Any) -> None:
    work = _Work()
    error = KeyError("defect")

    async def failing(number: int) -> int:
        if number == 3:
            raise error
        return await work(number)

    with pytest.raises(KeyError) as caught:
        await map_(failing, range(1000), 5)
    assert caught.value is error
    assert len(work.begun) < 20
    assert work.running == 0
    assert work.cancelled or map_ is _streamed  # where errors wait for their turn


@pytest.mark.parametrize("map_", [*_MAPS, for_each])
async def test_an_error_of_the_stream_is_raised_as_it_is(map_: Any) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 0
        raise OSError("the listing failed")

    work = _Work()
    with pytest.raises(OSError, match="the listing failed"):
        await map_(work, broken(), 5)
    assert work.running == 0


async def test_an_endless_stream_is_taken_only_as_fast_as_it_is_worked_on() -> None:
    taken = 0

    async def endless() -> AsyncIterator[int]:
        nonlocal taken
        while True:
            yield taken
            taken += 1

    async with aclosing(map_stream(_Work(), endless(), 4)) as results:
        async for result in results:
            if result == 20:
                break
    assert taken <= 10 + 4


async def test_closing_a_stream_ends_what_has_begun() -> None:
    work = _Work()
    async with aclosing(map_stream(work, range(100), 8)) as results:
        await anext(results)
    assert work.running == 0
    assert len(work.begun) <= 9


async def test_several_calls_may_share_a_limit() -> None:
    work, slots = _Work(), asyncio.Semaphore(5)
    await asyncio.gather(for_each(work, range(20), slots), for_each(work, range(20), slots))
    assert work.most == 5
    assert sorted(work.ended) == sorted([*range(20), *range(20)])


async def test_a_shared_limit_is_whole_again_after_an_error() -> None:
    slots = asyncio.Semaphore(3)

    async def failing(number: int) -> None:
        raise KeyError(number)

    with pytest.raises(KeyError):
        await for_each(failing, range(10), slots)
    await asyncio.sleep(0)
    work = _Work()
    await for_each(work, range(10), slots)
    assert work.most == 3


async def test_a_cancellation_from_outside_ends_all_of_it() -> None:
    work = _Work()
    task = asyncio.create_task(for_each(work, _stream(1000), 5))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.running == 0


async def test_a_room_holds_no_more_than_its_size_and_serves_in_order_whatever_is_cancelled() -> None:
    room, chance = Room(10), random.Random(1)
    inside, began, most = Counter[int](), list[int](), list[int]()

    async def hold(number: int, amount: int) -> None:
        async with room.hold(amount):
            began.append(number)
            inside[number] = min(amount, 10)
            most.append(inside.total())
            try:
                await asyncio.sleep(chance.random() / 200)
            finally:
                del inside[number]

    tasks = [asyncio.create_task(hold(number, chance.randrange(15))) for number in range(60)]
    await asyncio.sleep(0.01)
    for task in chance.sample(tasks, 20):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert max(most) == 10
    assert began == sorted(began)
    async with room.hold(10):
        pass
