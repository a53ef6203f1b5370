"""Which days of an output are whole, by the reports of the runs whose manifests are of a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.inspect.listing import recent_entries
from prefect_wavespeed.inspect.runs import HAVE_PICTURES
from prefect_wavespeed.ledger.open_jobs import OnPage, ignore_page
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode
from prefect_wavespeed.storage.store import Store

_AT_ONCE = 32  # summaries that are read
_AHEAD = timedelta(days=1)  # by which a day begins earlier in some time zones than in UTC


@dataclass(frozen=True)
class Day:
    """A manifest of a day, as the last of its runs has left it.

    Attributes:
        day: which one.
        last: the report of the run that ended last.
        runs: how many runs have reported on it.
    """

    day: date
    last: Summary
    runs: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether every row has its pictures."""
        return all(status in HAVE_PICTURES for status, count in self.last.counts.items() if count)


async def days(store: Store, since: date | None = None, on_page: OnPage = ignore_page) -> list[Day]:
    """The days of which runs have reported, the earliest first; several for one if it has several manifests.

    Args:
        store: the output.
        since: leave out earlier days.
        on_page: called for each page of the listing.

    Raises:
        StoreError: the store cannot be read.
    """
    written_after = datetime.combine(since, time(), UTC) - _AHEAD if since else None
    found: dict[tuple[date, str], Day] = {}
    suffix = f"/{layout.SUMMARY}"
    async for entries in recent_entries(store, layout.RUNS, suffix, written_after, on_page):
        paths = [entry.path for entry in entries]
        for summary in await map_all(partial(_read, store), paths, _AT_ONCE):
            if summary and summary.partition and (since is None or summary.partition >= since):
                key = summary.partition, summary.manifest
                before = found.get(key)
                last = max(before.last, summary, key=lambda one: one.ended) if before else summary
                found[key] = Day(key[0], last, before.runs + 1 if before else 1)
    return [found[key] for key in sorted(found)]


async def _read(store: Store, path: str) -> Summary | None:
    data = await store.get(path)
    return None if data is None else decode(data, Summary, store.uri_of(path))
