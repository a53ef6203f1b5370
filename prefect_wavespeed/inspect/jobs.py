"""The jobs of an output: all of them, or those that a name means. Nothing is written."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import unquote

from prefect_wavespeed.concurrency import map_stream
from prefect_wavespeed.inspect.job_view import JobView, read_job
from prefect_wavespeed.inspect.listing import ListedJob, Status, list_by_key, list_by_name, list_jobs
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.ledger.open_jobs import OnPage, ignore_page
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import without_signature

MAX_SORTED = 100_000
"""Jobs that are sorted by time; of more, the rest come in the order of the listing."""

_CONCURRENCY = 64  # jobs that are read at once
_PART_OF_KEY = re.compile(r"[0-9a-f]{8,64}")


async def jobs(
    store: Store,
    status: Status | None = None,
    since: datetime | None = None,
    on_page: OnPage = ignore_page,
) -> AsyncIterator[JobView]:
    """Yield the jobs of an output, the newest first where there are no more than ``MAX_SORTED``.

    Args:
        store: the output.
        status: only jobs of this status.
        since: only jobs that were stored, failed or last changed from then on.
        on_page: called for each page of the listing.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
    """
    listing = list_jobs(store, status, since, on_page)
    first: dict[str, ListedJob] = {}
    async for listed in listing:
        earlier = first.get(listed.key[:16])
        if earlier is None or listed.status == "done":
            first[listed.key[:16]] = listed
        if len(first) == MAX_SORTED:
            break
    else:
        first = dict(sorted(first.items(), key=lambda item: item[1].at, reverse=True))
    async for job in _read(store, _chain(first.values(), listing)):
        if status in (None, job.status) and (since is None or job.at >= since):
            yield job


async def find(store: Store, wanted: str, limit: int = 20, on_page: OnPage = ignore_page) -> list[JobView]:
    """Find the jobs that a key (or 8 or more of its first characters), a prediction's id or a source means.

    Args:
        store: the output.
        wanted: the key or the id; or the source as it was given, or its end from any ``/`` on, or the name of
            its file without the ending.
        limit: how many to find; one more shows that there are more.
        on_page: called for each page of the listing.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
    """
    names = _names(wanted)

    def matches(job: JobView) -> bool:
        return wanted in job.prediction_ids or _is_named(job.source, names)

    if _PART_OF_KEY.fullmatch(wanted):
        by_key = _read(store, list_by_key(store, wanted, on_page))
        if found := await _collect(by_key, lambda job: job.key.startswith(wanted), limit):
            return found
    else:  # quicker, if the file's name gave the job's folder its name
        by_name = _read(store, list_by_name(store, wanted, on_page))
        if found := await _collect(by_name, matches, limit):
            return found
    return await _collect(_read(store, list_jobs(store, None, None, on_page)), matches, limit)


async def files(store: Store, job: JobView) -> list[Entry]:
    """List the pictures of a done job, and its side-car."""
    name = job.path.split("/")[1]
    folders = [await store.list(folder) for folder in (layout.images(name), layout.quarantine(name))]
    found = [entry for entries in folders for entry in sorted(entries, key=lambda entry: entry.path)]
    return [entry for entry in found if entry.path != layout.remarks(name)]


async def _read(store: Store, listing: AsyncIterator[ListedJob]) -> AsyncIterator[JobView]:
    """Read listed jobs, several at once, in their order; those that have been moved are left out."""
    read = partial(read_job, Ledger(store))
    async with aclosing(map_stream(read, listing, _CONCURRENCY)) as views:
        async for job in views:
            if job:
                yield job


async def _chain(first: Iterable[ListedJob], rest: AsyncIterator[ListedJob]) -> AsyncIterator[ListedJob]:
    for listed in first:
        yield listed
    async for listed in rest:
        yield listed


async def _collect(
    found: AsyncIterator[JobView], matches: Callable[[JobView], bool], limit: int
) -> list[JobView]:
    """Return the first jobs that match, each once, as it was listed last."""
    taken: dict[str, JobView] = {}
    async for job in found:
        if matches(job):
            taken[job.key] = job
        if len(taken) > limit:
            break
    return list(taken.values())


def _names(wanted: str) -> set[str]:
    """Return the forms that the source may have in a side-car: without signature, or as an absolute path."""
    if "://" in wanted:
        with suppress(ValueError):
            return {unquote(wanted), unquote(without_signature(wanted))}
        return {unquote(wanted)}
    return {unquote(wanted), os.path.abspath(os.path.expanduser(wanted))}  # noqa: PTH100, PTH111 - no I/O


def _is_named(source: str | None, names: set[str]) -> bool:
    uri = unquote(source or "")
    ends = (uri, str(PurePosixPath(uri).with_suffix("")) if PurePosixPath(uri).name else uri)
    return any(uri == name or end.endswith(f"/{name.lstrip('/')}") for name in names if name for end in ends)
