"""What an output holds, job by job: read only, a page of the listing at a time.

A job moves from ``open/`` to ``images/`` or ``failed/``, so it is looked for in this order: none is missed on
its way, and one that is met twice is where it was met last.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from prefect_wavespeed.concurrency import map_stream
from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.job import slug
from prefect_wavespeed.ledger.ledger import Ledger, metadata_path
from prefect_wavespeed.ledger.records import Claim, DeadLetter, Metadata, OpenJob, Record
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import without_signature

AT_ONCE = 64
"""Objects that are read at once."""
MARGIN = timedelta(hours=1)
"""How far the clocks of store, runner and API may be apart."""
SORTED = 100_000
"""Jobs that are brought into the order of time; more are told in the order of the listing."""

Status = Literal["open", "failed", "done"]

_KEY = re.compile(r"[0-9a-f]{64}")
_PART_OF_KEY = re.compile(r"[0-9a-f]{8,64}")
_SIDE_CAR = re.compile(r"images/[^/]*-([0-9a-f]{16})/metadata\.json")


@dataclass(frozen=True)
class Place:
    """Where a listing has met a job.

    Attributes:
        key: of the job; of one that is done only the first 16 characters.
        at: when the newest of its objects there was written, by the store's clock.
        path: of its side-car or its dead letter; its folder below ``open/``.
    """

    status: Status
    key: str
    at: datetime
    path: str


@dataclass(frozen=True)
class JobView:
    """All that an output tells of a job.

    Attributes:
        key: of the job; only the first 16 characters where its side-car cannot be read.
        at: when it was stored or given up, or when it was last heard of.
        unreadable: its side-car or dead letter is of another version.
    """

    status: Status
    key: str
    at: datetime
    path: str
    metadata: Metadata | None = None
    letter: DeadLetter | None = None
    open_job: OpenJob = field(default_factory=OpenJob)
    claims: dict[int, Claim] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    unreadable: bool = False

    @property
    def claim(self) -> Claim | None:
        """The newest claim of an open job."""
        return self.claims[max(self.claims)] if self.claims else None

    @property
    def source(self) -> str | None:
        """Where its picture came from; nothing secret in it."""
        if told := self.metadata or self.letter:
            return told.source.uri
        return self.claim.job.source.uri if self.claim else None

    @property
    def prediction_ids(self) -> set[str]:
        """All its predictions, those that came to nothing included."""
        ids = {record.prediction_id for record in self.records.values()}
        for told in (self.metadata, self.letter):
            ids |= (
                {attempt.prediction_id for attempt in told.attempts if attempt.prediction_id}
                if told
                else set()
            )
        if self.metadata:
            ids.add(self.metadata.prediction.id)
        if self.letter and self.letter.error.prediction_id:
            ids.add(self.letter.error.prediction_id)
        return ids


OnPage = Callable[[int], None]
"""What is told how many more objects a listing has named."""


async def young(
    store: Store,
    prefix: str,
    ending: str,
    since: datetime | None = None,
    on_page: OnPage = lambda count: None,
) -> AsyncIterator[list[Entry]]:
    """A listing's objects of a kind that are as young as what is asked for, a page at a time."""
    oldest = since - MARGIN if since else None
    async for page in store.pages(prefix):
        on_page(len(page))
        yield [
            entry
            for entry in page
            if entry.path.endswith(ending) and (oldest is None or entry.last_modified >= oldest)
        ]


async def contents(store: Store, entries: Sequence[Entry]) -> AsyncIterator[bytes]:
    """What is in objects, a number of them read at once; one that has moved on meanwhile is left out."""
    async with aclosing(map_stream(store.get, (entry.path for entry in entries), AT_ONCE)) as found:
        async for data in found:
            if data is not None:
                yield data


async def open_keys(
    store: Store, start: str = "", on_page: OnPage = lambda count: None
) -> AsyncIterator[tuple[str, datetime]]:
    """The keys of all open jobs, or of those that begin like this, and when they were last heard of.

    A listing has what belongs to one of them in one place.
    """
    last: tuple[str, datetime] | None = None
    async for page in store.pages("open/", start):
        on_page(len(page))
        for entry in page:
            key, at = entry.path.split("/")[1], entry.last_modified
            if not _KEY.fullmatch(key):
                continue
            if last and last[0] == key:
                last = key, max(at, last[1])
                continue
            if last:
                yield last
            last = key, at
    if last:
        yield last


async def jobs(
    store: Store,
    status: Status | None = None,
    since: datetime | None = None,
    on_page: OnPage = lambda count: None,
) -> AsyncIterator[JobView]:
    """All jobs of an output, the newest first where there are no more than ``SORTED``.

    Args:
        store: the output.
        status: leave out those that stand elsewhere.
        since: leave out those that were stored, given up or last heard of earlier.
        on_page: told of the listing as it goes on.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
    """
    found = _places(store, status, since, on_page)
    kept: dict[str, Place] = {}
    async for place in found:
        there = kept.get(place.key[:16])
        if there is None or place.status == "done":
            kept[place.key[:16]] = place
        if len(kept) == SORTED:
            break
    else:
        kept = dict(sorted(kept.items(), key=lambda item: item[1].at, reverse=True))
    async for facts in _read(store, _first(kept.values(), found)):
        if status in (None, facts.status) and (since is None or facts.at >= since):
            yield facts


async def find(
    store: Store, what: str, most: int = 20, on_page: OnPage = lambda count: None
) -> list[JobView]:
    """The jobs that a key (or its first 8 characters and more), a prediction's id or a source means.

    Args:
        store: the output.
        what: the key, the id; or the source as it was given, or its end from some ``/`` on.
        most: how many to find; one more says that there are more.
        on_page: told of the listing as it goes on.

    Raises:
        StoreError, ConfigurationError: the store cannot be read.
    """
    names = _names(what)

    def is_meant(facts: JobView) -> bool:
        return what in facts.prediction_ids or _is_named(facts.source, names)

    if _PART_OF_KEY.fullmatch(what):
        places = _by_key(store, what, on_page)
        if found := await _some(_read(store, places), lambda facts: facts.key.startswith(what), most):
            return found
    elif "." in what or "/" in what:  # where its file's name gave the job's folder its name, that is quicker
        places = _by_name(store, what, on_page)
        if found := await _some(_read(store, places), is_meant, most):
            return found
    return await _some(_read(store, _places(store, None, None, on_page)), is_meant, most)


async def files(store: Store, facts: JobView) -> list[Entry]:
    """The pictures that are there of a job that is done, and its side-car."""
    folder = facts.path.split("/")[1]
    found = [await store.list(f"{place}/{folder}") for place in ("images", "quarantine")]
    return [entry for entries in found for entry in sorted(entries, key=lambda entry: entry.path)]


# Where a listing meets them


async def _places(
    store: Store, status: Status | None, since: datetime | None, on_page: OnPage
) -> AsyncIterator[Place]:
    oldest = since - MARGIN if since else None
    if status in (None, "open"):
        async for key, at in open_keys(store, on_page=on_page):
            if oldest is None or at >= oldest:
                yield Place("open", key, at, f"open/{key}")
    if status in (None, "failed"):
        async for entries in young(store, "failed/", ".json", since, on_page):
            for place in _dead(entries):
                yield place
    if status in (None, "done"):
        async for entries in young(store, "images/", "/metadata.json", since, on_page):
            for place in _done(entries):
                yield place


async def _by_key(store: Store, start: str, on_page: OnPage) -> AsyncIterator[Place]:
    async for key, at in open_keys(store, start, on_page):
        yield Place("open", key, at, f"open/{key}")
    async for page in store.pages("failed/", start):
        on_page(len(page))
        for place in _dead(page):
            yield place
    async for page in store.pages("images/"):  # a folder's name begins with the picture's
        on_page(len(page))
        for place in _done(page):
            if place.key.startswith(start[:16]):
                yield place


async def _by_name(store: Store, source: str, on_page: OnPage) -> AsyncIterator[Place]:
    for status in ("open", "failed"):
        async for place in _places(store, status, None, on_page):
            yield place
    name = unquote(urlsplit(source).path if "://" in source else source).rstrip("/").rpartition("/")[2]
    async for page in store.pages("images/", f"{slug(name)}-"):
        on_page(len(page))
        for place in _done(page):
            yield place


def _dead(entries: Iterable[Entry]) -> Iterator[Place]:
    for entry in entries:
        key = entry.path.removeprefix("failed/").removesuffix(".json")
        if _KEY.fullmatch(key):
            yield Place("failed", key, entry.last_modified, entry.path)


def _done(entries: Iterable[Entry]) -> Iterator[Place]:
    for entry in entries:
        if match := _SIDE_CAR.fullmatch(entry.path):
            yield Place("done", match[1], entry.last_modified, entry.path)


# What is to be read of them


async def _read(store: Store, places: AsyncIterator[Place]) -> AsyncIterator[JobView]:
    """The facts of jobs, a number of them read at once, in their order."""
    async with aclosing(map_stream(partial(_facts, Ledger(store)), places, AT_ONCE)) as views:
        async for facts in views:
            if facts:
                yield facts


async def _facts(ledger: Ledger, place: Place) -> JobView | None:
    """What there is of a job; None where it has moved on meanwhile."""
    try:
        if place.status == "done":
            return await _side_car(ledger.store, place)
        return await _undone(ledger, place)
    except (ValidationError, StoreError) as problem:
        if isinstance(problem, StoreError) and problem.retryable:
            raise
        return JobView(place.status, place.key, place.at, place.path, unreadable=True)


async def _side_car(store: Store, place: Place) -> JobView | None:
    data = await store.get(place.path)
    if data is None:
        return None
    metadata = Metadata.model_validate_json(data)
    return JobView("done", metadata.job_key, metadata.times.stored, place.path, metadata=metadata)


async def _undone(ledger: Ledger, place: Place) -> JobView | None:
    """A job that is open or has failed: open, where it was taken up again after its dead letter."""
    key = place.key
    there, letter = await ledger.open(key), await ledger.dead(key)
    claims = {n: claim for n in there.claimed if (claim := await ledger.claimed(key, n))}
    records = {n: record for n in there.recorded if (record := await ledger.recorded(key, n))}
    if claims and (metadata := await ledger.done(job := claims[max(claims)].job)):
        return JobView("done", key, metadata.times.stored, metadata_path(job), metadata=metadata)
    if letter and letter.last_attempt >= there.latest:
        return JobView("failed", key, letter.failed_at, f"failed/{key}.json", letter=letter)
    if not there.latest:
        return None
    at = max((*there.claimed.values(), *there.recorded.values()))
    return JobView(
        "open", key, at, f"open/{key}", letter=letter, open_job=there, claims=claims, records=records
    )


async def _first(kept: Iterable[Place], more: AsyncIterator[Place]) -> AsyncIterator[Place]:
    for place in kept:
        yield place
    async for place in more:
        yield place


async def _some(found: AsyncIterator[JobView], wanted: Callable[[JobView], bool], most: int) -> list[JobView]:
    """The first that are wanted, each job once, where it was met last."""
    taken: dict[str, JobView] = {}
    async for facts in found:
        if wanted(facts):
            taken[facts.key] = facts
        if len(taken) > most:
            break
    return list(taken.values())


# How a source may be named


def _names(what: str) -> set[str]:
    """The same source as side-cars tell it: without a signature, or as a file's URI."""
    if "://" in what:
        with suppress(ValueError):
            return {unquote(what), unquote(without_signature(what))}
        return {unquote(what)}
    return {unquote(what), os.path.abspath(os.path.expanduser(what))}  # noqa: PTH100, PTH111 - no I/O


def _is_named(source: str | None, names: set[str]) -> bool:
    told = unquote(source or "")
    return any(told == name or told.endswith(f"/{name.lstrip('/')}") for name in names if name)
