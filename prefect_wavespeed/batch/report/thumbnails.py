"""Thumbnails for the gallery. All of it is best effort: the pictures that were paid for are stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.batch.outcome import Status
from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.job import Job
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.quality.verify import THUMBNAIL_EDGE
from prefect_wavespeed.sources.identify import is_url, read_source
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

# Of sources that are read for nothing but the gallery: ten thousand of a catalogue, five hundred of a camera.
# Those that failed have as much for themselves.
_MAX_READ = 2_000_000_000
_THIS_RUNS: tuple[Status, ...] = ("stored", "failed", "open")
_MAX_JOBS = 500  # of other runs
_CONCURRENCY = 32
_READERS = 4  # of sources, which may have 20 MB each


class GalleryThumbnails:
    """Makes thumbnails of sources that were not read to be uploaded, and of outputs that other runs stored.

    Args:
        table: where they are kept.
        store: where the pictures are.
    """

    def __init__(self, table: JobTable, store: Store) -> None:
        self._table = table
        self._store = store
        self._readers = asyncio.Semaphore(_READERS)
        self._read: Counter[bool] = Counter()  # bytes, by whether the job has its pictures

    async def keep_source(self, job: Job, status: Status) -> None:
        """Keep the thumbnail of a source that can be read, unless there is one.

        Args:
            job: whose source it is.
            status: how the job has ended. Nothing is read for one that an earlier run finished or gave up, or
                that was not submitted.
        """
        is_stored = status == "stored"
        if status not in _THIS_RUNS or self._read[is_stored] >= _MAX_READ or is_url(job.source):
            return
        if not self._table.wants_source(job.key):
            return
        async with self._readers:
            await self._keep_source(job, is_stored=is_stored)

    async def _keep_source(self, job: Job, *, is_stored: bool) -> None:
        with suppress(Exception):
            if data := await read_source(job.source, self._store):
                self._read[is_stored] += len(data)
                self._table.keep_source(job.key, await asyncio.to_thread(thumbnail, data, THUMBNAIL_EDGE))

    async def keep_stored(self) -> None:
        """Keep thumbnails of the first jobs that this run has stored, for runs whose shards stored them."""
        jobs = self._table.stored_by_this_run(_MAX_JOBS)
        outputs = [
            (job, layout.number_of_picture(uri) or place, uri)
            for job, uris in jobs
            for place, uri in enumerate(uris, 1)
            if not layout.is_quarantined(uri)
        ]
        await for_each(self._keep_output, outputs, _CONCURRENCY)
        await for_each(lambda job: self.keep_source(job, "stored"), [job for job, _ in jobs], _CONCURRENCY)

    async def _keep_output(self, output: tuple[Job, int, str]) -> None:
        job, number, uri = output
        with suppress(Exception):
            if data := await self._store.get(uri.removeprefix(f"{self._store.uri}/")):
                small = await asyncio.to_thread(thumbnail, data, THUMBNAIL_EDGE)
                self._table.keep_thumbnail(job.key, number, small)
