"""Removals that wait for one another: none is lost, whenever the batch ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.storage import removals
from prefect_wavespeed.storage.removals import Removals


class Deleted:
    """What was removed, request by request; each takes a moment."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.error: Exception | None = None  # of the next request

    async def delete(self, paths: Sequence[str]) -> None:
        await asyncio.sleep(0.02)
        if self.error:
            error, self.error = self.error, None
            raise error
        self.requests.append(list(paths))


async def test_objects_are_removed_at_once_unless_they_wait_for_others() -> None:
    deleted = Deleted()
    removing = Removals(deleted.delete)
    await removing.remove(["a"])
    async with removing.together():
        for path in "bcd":
            await removing.remove([path])
        assert deleted.requests == [["a"]]
    assert deleted.requests == [["a"], ["b", "c", "d"]]


@pytest.mark.parametrize("later", [[], ["c"]])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_none_is_lost_when_a_batch_ends_while_some_are_removed(
    cancelled: bool, later: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "_SECONDS", 0.01)
    deleted = Deleted()
    removing = Removals(deleted.delete)

    async def batch() -> None:
        async with removing.together():
            await removing.remove(["a", "b"])
            await asyncio.sleep(0.02)  # they are on their way
            if later:
                await removing.remove(later)
            await asyncio.sleep(9 if cancelled else 0)

    running = asyncio.create_task(batch())
    await asyncio.sleep(0.025)
    if cancelled:
        running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert sorted(path for request in deleted.requests for path in request) == ["a", "b", *later]


@pytest.mark.parametrize("error", [StoreError("down"), RuntimeError("no answer")])
async def test_a_store_that_is_down_ends_no_batch(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    deleted = Deleted()
    deleted.error = error
    removing = Removals(deleted.delete)
    async with removing.together():
        await removing.remove(["a"])
    await removing.remove(["b"])
    assert deleted.requests == [["b"]]
    assert f"{error}: claims of finished jobs are left: the next batch or" in caplog.text
