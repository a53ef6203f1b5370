"""The runs of batches whose reports an output holds, and their rows without pictures. Nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from prefect_wavespeed.batch.outcome import Status
from prefect_wavespeed.batch.report.rows import ReportRow, Summary, decode_rows
from prefect_wavespeed.errors import ConfigurationError, StoreError
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.documents import decode
from prefect_wavespeed.storage.scratch import scratch_folder
from prefect_wavespeed.storage.store import Store

LATEST = "latest"
HAVE_PICTURES: tuple[Status, ...] = ("stored", "done")
_WHOLE_ID = 36  # characters


@dataclass(frozen=True)
class BatchRun:
    """A run that has written something into an output.

    Attributes:
        id: of the flow run.
        folder: of its report in the store.
        at: when it wrote the last time.
        is_complete: its report is written. If not, it is still running, or its process died.
    """

    id: str
    folder: str
    at: datetime
    is_complete: bool


async def find_run(store: Store, wanted: str = LATEST) -> BatchRun:
    """Find the run of a batch.

    Args:
        store: the output.
        wanted: its flow run's id, or the beginning of it; or ``latest``: of those that started on
            the last day, the one that wrote last.

    Raises:
        ConfigurationError: there is none, or several begin like this.
        StoreError: the store cannot be read.
    """
    start = "" if wanted == LATEST else wanted
    found: dict[str, BatchRun] = {}
    for night in sorted(await store.folders(layout.RUNS), reverse=True):
        async for page in store.pages(night, start):
            for entry in page:
                _note(entry, found)
        if found and (wanted == LATEST or len(wanted) >= _WHOLE_ID):
            break  # there may be very many nights
    if not found:
        which = "no run of a batch" if wanted == LATEST else f"--run {wanted}: no such run"
        raise ConfigurationError(f"{which} in {store.uri}: give the output and the run of a batch")
    newest = max(found.values(), key=lambda run: run.at)
    if wanted != LATEST and len(found) > 1:
        ids = ", ".join(sorted(run.id for run in found.values())[:5])
        raise ConfigurationError(
            f"--run {wanted}: {len(found)} runs begin with it: give more of the id: {ids}"
        )
    return newest


def _note(entry: Entry, found: dict[str, BatchRun]) -> None:
    """Add what an object says of its run."""
    folder = layout.run_of(entry.path)
    if folder is None:
        return
    before = found.get(folder)
    at = max(entry.last_modified, before.at) if before else entry.last_modified
    is_complete = entry.path == f"{folder}/{layout.SUMMARY}" or bool(before and before.is_complete)
    found[folder] = BatchRun(PurePosixPath(folder).name, folder, at, is_complete)


async def read_summary(store: Store, run: BatchRun) -> Summary | None:
    """The run in figures; None while it has no report."""
    path = f"{run.folder}/{layout.SUMMARY}"
    data = await store.get(path) if run.is_complete else None
    return None if data is None else decode(data, Summary, store.uri_of(path))


async def rows_without_pictures(store: Store, run: BatchRun) -> AsyncIterator[ReportRow]:
    """The rows of a run that failed, were submitted only, left open or ignored, or were not submitted.

    Of a run without a report only those that it has reported so far, in no order.

    Raises:
        StoreError: the store cannot be read.
    """
    if not run.is_complete:
        async for row in _reported_so_far(store, run):
            yield row
        return
    with scratch_folder() as scratch:
        report, path = scratch / layout.REPORT_JSONL, f"{run.folder}/{layout.REPORT_JSONL}"
        if not await store.get_file(path, report):
            raise StoreError(f"{store.uri_of(path)} was deleted", retryable=False)
        with report.open("rb") as lines:
            for row in decode_rows(lines, store.uri_of(path)):
                if row.status not in HAVE_PICTURES:
                    yield row


async def _reported_so_far(store: Store, run: BatchRun) -> AsyncIterator[ReportRow]:
    rows: dict[int, ReportRow] = {}  # one that was tried again is in a later part, too
    for folder in (layout.report_parts(run.folder), layout.shards(run.folder)):
        for entry in sorted(await store.list(folder), key=lambda entry: entry.last_modified):
            is_part = layout.shard_of_part(entry.path) is not None
            data = (await store.get(entry.path)) if is_part else None
            for row in decode_rows((data or b"").splitlines(), store.uri_of(entry.path)):
                if row.status not in HAVE_PICTURES:
                    rows[row.row] = row
                else:
                    rows.pop(row.row, None)
    for row in rows.values():
        yield row
