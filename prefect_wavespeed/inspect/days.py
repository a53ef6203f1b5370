"""Which days of an output are whole, by the reports of the runs whose manifests are of a day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from prefect_wavespeed.batch.manifest.partition import day_at
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
        was_over: the day was over when that run started. If not, more may have come since.
    """

    day: date
    last: Summary
    runs: int
    was_over: bool

    @property
    def has_all(self) -> bool:
        """Whether every row has its pictures."""
        return all(status in HAVE_PICTURES for status, count in self.last.counts.items() if count)

    @property
    def is_whole(self) -> bool:
        """Whether every row has its pictures, and no row can have come later."""
        return self.has_all and self.was_over


async def read_summaries(
    store: Store, since: date | None = None, on_page: OnPage = ignore_page
) -> list[Summary]:
    """What runs of manifests of a day have reported.

    Args:
        store: the output.
        since: leave out earlier days.
        on_page: called for each page of the listing.

    Raises:
        StoreError: the store cannot be read.
    """
    written_after = datetime.combine(since, time(), UTC) - _AHEAD if since else None
    found: list[Summary] = []
    suffix = f"/{layout.SUMMARY}"
    async for entries in recent_entries(store, layout.RUNS, suffix, written_after, on_page):
        found += filter(None, await map_all(partial(_read, store), [one.path for one in entries], _AT_ONCE))
    return [one for one in found if one.partition and (since is None or one.partition >= since)]


def days_of(
    summaries: Iterable[Summary], zones: Sequence[str | None] = (None,), digest: str | None = None
) -> list[Day]:
    """The days of which runs have reported, the earliest first; several for one if it has several manifests.

    Args:
        summaries: of the runs.
        zones: the time zones in all of which a day has to be over; None is that of this machine.
        digest: leave out runs with other options (`BatchOptions.digest`).
    """
    found: dict[tuple[date, str], list[Summary]] = {}
    for one in summaries:
        if one.partition and digest in (None, one.options_digest):
            found.setdefault((one.partition, one.manifest), []).append(one)
    days = []
    for (day, _), runs in sorted(found.items()):
        last = max(runs, key=lambda one: one.ended)
        was_over = all(day_at(last.started, zone) > day for zone in zones)
        days.append(Day(day, last, len(runs), was_over))
    return days


async def _read(store: Store, path: str) -> Summary | None:
    data = await store.get(path)
    return None if data is None else decode(data, Summary, store.uri_of(path))
