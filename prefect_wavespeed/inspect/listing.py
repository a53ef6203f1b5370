"""Jobs as a listing of an output shows them, before anything is read.

A job moves from ``open/`` to ``images/`` or ``failed/``, so these are listed in this order: no job is missed
while it moves, and one that is listed twice is where it was listed last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import unquote, urlsplit

from prefect_wavespeed.job import slug
from prefect_wavespeed.ledger.open_jobs import OnPage, ignore_page, open_keys
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store

CLOCK_MARGIN = timedelta(hours=1)
"""How far the clocks of store, runner and API may differ."""

Status = Literal["open", "failed", "done"]


@dataclass(frozen=True)
class ListedJob:
    """A job in a listing.

    Attributes:
        status: by the folder in which it was listed.
        key: of the job; for a done one only the first 16 characters.
        at: when its newest object there was written, by the store's clock.
        path: of its side-car or its dead letter, or its folder below ``open/``.
    """

    status: Status
    key: str
    at: datetime
    path: str


async def list_jobs(
    store: Store, status: Status | None, since: datetime | None, on_page: OnPage
) -> AsyncIterator[ListedJob]:
    """List the jobs of an output.

    Args:
        store: the output.
        status: only jobs of this status.
        since: leave out objects that were written well before this.
        on_page: called for each page of the listing.
    """
    oldest = since - CLOCK_MARGIN if since else None
    if status in (None, "open"):
        async for key, at in open_keys(store, on_page=on_page):
            if oldest is None or at >= oldest:
                yield _open(key, at)
    if status in (None, "failed"):
        async for entries in recent_entries(store, layout.FAILED, layout.DEAD_LETTER_SUFFIX, since, on_page):
            for job in _failed(entries):
                yield job
    if status in (None, "done"):
        async for entries in recent_entries(store, layout.IMAGES, layout.METADATA_SUFFIX, since, on_page):
            for job in _done(entries):
                yield job


async def list_by_key(store: Store, start: str, on_page: OnPage) -> AsyncIterator[ListedJob]:
    """List the jobs whose keys begin with this."""
    async for key, at in open_keys(store, start, on_page):
        yield _open(key, at)
    async for page in store.pages(layout.FAILED, start):
        on_page(len(page))
        for job in _failed(page):
            yield job
    async for page in store.pages(layout.IMAGES):  # folder names begin with the picture's name
        on_page(len(page))
        for job in _done(page):
            if job.key.startswith(start[:16]):
                yield job


async def list_by_name(store: Store, source: str, on_page: OnPage) -> AsyncIterator[ListedJob]:
    """List the jobs that are not done, and the done ones whose folder is named after this source."""
    for status in ("open", "failed"):
        async for job in list_jobs(store, status, None, on_page):
            yield job
    path = unquote(urlsplit(source).path if "://" in source else source)
    name = path.rstrip("/").rpartition("/")[2]
    async for page in store.pages(layout.IMAGES, f"{slug(name)}-"):
        on_page(len(page))
        for job in _done(page):
            yield job


async def recent_entries(
    store: Store, prefix: str, suffix: str, since: datetime | None = None, on_page: OnPage = ignore_page
) -> AsyncIterator[list[Entry]]:
    """List the objects of one kind, a page at a time, without those written well before ``since``."""
    oldest = since - CLOCK_MARGIN if since else None
    async for page in store.pages(prefix):
        on_page(len(page))
        yield [
            entry
            for entry in page
            if entry.path.endswith(suffix) and (oldest is None or entry.last_modified >= oldest)
        ]


def _open(key: str, at: datetime) -> ListedJob:
    return ListedJob("open", key, at, layout.open_job(key).rstrip("/"))


def _failed(entries: Iterable[Entry]) -> Iterator[ListedJob]:
    for entry in entries:
        if key := layout.key_of_dead_letter(entry.path):
            yield ListedJob("failed", key, entry.last_modified, entry.path)


def _done(entries: Iterable[Entry]) -> Iterator[ListedJob]:
    for entry in entries:
        if key := layout.short_key_of_metadata(entry.path):
            yield ListedJob("done", key, entry.last_modified, entry.path)
