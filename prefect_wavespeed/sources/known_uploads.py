"""Which pictures have been uploaded before, without a request for each."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from datetime import datetime

from prefect_wavespeed.storage import layout, seek
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store

_DIGITS = 16  # of a SHA-256, which tell pictures apart: where they do not, a look finds that out
_LAST = (1 << 4 * _DIGITS) - 1
_LISTINGS = 8  # at a time


class KnownUploads:
    """Keeps what pages of the listing of ``uploads/`` have told: eight bytes an upload.

    A page tells about every picture between its first and its last, uploaded or not. So the first one tells
    all of a thousand uploads, and where there are a million, no page is read for a picture that lies in one
    which was read before. What another process uploads after that is not known; then a picture is uploaded
    once more, which is free.

    Args:
        store: where uploads are recorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first = asyncio.Lock()
        self._listings = asyncio.Semaphore(_LISTINGS)
        # From each start to the end beside it, without overlaps, it is known which pictures have an upload.
        self._starts: list[int] = []
        self._ranges: list[tuple[int, array[int]]] = []

    async def may_have(self, sha256: str, since: datetime) -> bool:
        """Whether there may be an upload of a picture that was made since then; False if there is none.

        Raises:
            StoreError: the store cannot be listed now.
        """
        if not self._store.sorts_listings:
            return True
        number = _number(sha256)
        async with self._first:
            if not self._starts:
                await self._read(0, since)
        if self._told(number) is None:
            async with self._listings:
                if self._told(number) is None:
                    await self._read(number, since)
        return self._told(number) is not False

    def add(self, sha256: str) -> None:
        """Note an upload that this process has made."""
        number = _number(sha256)
        if self._told(number) is False:
            insort(self._ranges[bisect_right(self._starts, number) - 1][1], number)

    def _told(self, number: int) -> bool | None:
        """Whether a picture has an upload; None where no page has told."""
        place = bisect_right(self._starts, number) - 1
        if place < 0:
            return None
        end, uploaded = self._ranges[place]
        if number > end:
            return None
        at = bisect_left(uploaded, number)
        return at < len(uploaded) and uploaded[at] == number

    async def _read(self, start: int, since: datetime) -> None:
        """Read the page of the listing that begins there."""
        page = await self._store.page(layout.UPLOADS, f"{layout.UPLOADS}{start:0{_DIGITS}x}")
        if self._told(start) is not None:  # another page has told meanwhile
            return
        place = bisect_right(self._starts, start)
        end = self._starts[place] - 1 if place < len(self._starts) else _LAST
        found = _numbered(page)
        if len(page) >= seek.PAGE:
            end = min(end, found[-1][0]) if found else start
        uploaded = {number for number, at in found if number <= end and at >= since}
        self._starts.insert(place, start)
        self._ranges.insert(place, (end, array("Q", sorted(uploaded))))


def _numbered(page: Sequence[Entry]) -> list[tuple[int, datetime]]:
    return [
        (_number(sha256), entry.last_modified)
        for entry in page
        if (sha256 := layout.sha256_of_upload(entry.path))
    ]


def _number(sha256: str) -> int:
    return int(sha256[:_DIGITS], 16)
