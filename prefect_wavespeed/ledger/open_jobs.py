"""Listing the unfinished jobs of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime

from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

OnPage = Callable[[int], None]
"""Called with the number of objects on each page of a listing."""


def ignore_page(count: int) -> None:
    """Do nothing: the default `OnPage`."""


async def open_keys(
    store: Store, start: str = "", on_page: OnPage = ignore_page
) -> AsyncIterator[tuple[str, datetime]]:
    """Yield the key of each open job, and when its newest object was written, by the store's clock.

    Args:
        store: where the jobs are.
        start: only keys that begin with this.
        on_page: called for each page of the listing.
    """
    last: tuple[str, datetime] | None = None
    async for page in store.pages(layout.OPEN, start):
        on_page(len(page))
        for entry in page:
            key = layout.key_of_open(entry.path)
            if key is None:
                continue
            if last and last[0] == key:  # a listing keeps a job's objects together
                last = key, max(entry.last_modified, last[1])
                continue
            if last:
                yield last
            last = key, entry.last_modified
    if last:
        yield last
