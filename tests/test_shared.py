"""What runs of one event loop share: opened once, closed once, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from anyio import fail_after

from prefect_wavespeed.tasks._shared import shared  # nothing public shows a cancellation between two awaits


class Door:
    """Something that can be open; opening and closing take one turn of the event loop, or wait for a gate."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self.opened > self.closed

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Door]:
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.opened += 1
        try:
            yield self
        finally:
            await self.gate.wait()
            await asyncio.sleep(0)
            self.closed += 1


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def use(door: Door, until: asyncio.Event) -> None:
    async with shared("door", door.open) as used:
        assert used.is_open
        await until.wait()


async def test_all_users_share_one_and_the_last_closes_it() -> None:
    door, leave = Door(), asyncio.Event()
    users = [asyncio.create_task(use(door, leave)) for _ in range(3)]
    await turns()
    users[0].cancel()
    await turns()
    assert (door.opened, door.closed) == (1, 0)
    leave.set()
    await asyncio.gather(*users, return_exceptions=True)
    assert (door.opened, door.closed) == (1, 1)


async def test_what_was_closed_is_opened_anew_by_the_next_users_own_means() -> None:
    old, new = Door(), Door()
    for door in (old, new):
        async with shared("door", door.open) as used:
            assert used is door
    assert (old.closed, new.closed) == (1, 1)


async def test_a_user_that_is_cancelled_while_it_closes_leaves_nothing_open() -> None:
    door, leave = Door(), asyncio.Event()
    user = asyncio.create_task(use(door, leave))
    await turns()
    door.gate.clear()
    leave.set()
    await turns()
    for _ in range(3):
        user.cancel()
        await turns()
    assert not user.done()
    door.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert not door.is_open


async def test_a_timeout_while_it_closes_leaves_nothing_open() -> None:
    """anyio's, which Prefect uses for a flow's `timeout_seconds`."""
    door = Door()

    async def open_the_gate() -> None:
        await asyncio.sleep(0.1)
        door.gate.set()

    async def use_once() -> None:
        async with shared("door", door.open):
            door.gate.clear()
        await asyncio.sleep(1)

    helper = asyncio.create_task(open_the_gate())
    with pytest.raises(TimeoutError), fail_after(0.02):
        await use_once()
    assert helper.done()
    assert not door.is_open


@pytest.mark.parametrize("turn", range(12))
async def test_cancelled_at_any_moment_beside_others_it_leaves_nothing_open(turn: int) -> None:
    """One opens it, one leaves it and one comes: whichever of the three is cancelled, and when."""
    for victim in range(3):
        door, leave = Door(), asyncio.Event()
        leave.set()
        users = [asyncio.create_task(use(door, leave)) for _ in range(3)]
        await turns(turn)
        users[victim].cancel()
        others = await asyncio.wait_for(asyncio.gather(*users, return_exceptions=True), 1)
        assert all(error is None for n, error in enumerate(others) if n != victim)
        assert not door.is_open, victim


async def test_who_is_cancelled_while_it_opens_stops_the_opening_unless_others_wait() -> None:
    door, leave = Door(), asyncio.Event()
    door.gate.clear()
    first, second = (asyncio.create_task(use(door, leave)) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    door.gate.set()
    await turns()
    assert door.is_open
    leave.set()
    await second
    alone = asyncio.create_task(use(door, leave))
    door.gate.clear()
    await turns()
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert (door.opened, door.closed) == (1, 1)


async def test_what_cannot_be_opened_is_an_error_for_all_who_wait_and_is_tried_again_by_the_next() -> None:
    door, leave = Door(), asyncio.Event()
    leave.set()
    door.error = OSError("stuck")
    users = [asyncio.create_task(use(door, leave)) for _ in range(2)]
    assert [str(error) for error in await asyncio.gather(*users, return_exceptions=True)] == ["stuck"] * 2
    door.error = None
    await use(door, leave)
    assert (door.opened, door.closed) == (1, 1)


async def test_an_error_in_closing_is_raised_by_the_last_user() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise OSError("stuck")

    with pytest.raises(OSError, match="stuck"):
        async with shared("door", broken):
            pass
