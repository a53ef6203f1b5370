"""Thumbnails for the gallery. All of it is best effort: the pictures that were paid for are stored."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from prefect_wavespeed.batch.job_table import JobTable
from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.job import Job
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.sources.identify import read_source
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

_EDGE = 128  # pixels
_MAX_SOURCES = 500
_MAX_JOBS = 500  # of other runs
_CONCURRENCY = 32


class GalleryThumbnails:
    """Makes thumbnails of sources, and of outputs that other runs have stored.

    Args:
        table: where they are kept.
        store: where the pictures are.
    """

    def __init__(self, table: JobTable, store: Store) -> None:
        self._table = table
        self._store = store
        self._sources = 0

    async def keep_source(self, job: Job) -> None:
        """Keep the thumbnail of a job's source, if it is a picture that we hold."""
        if self._sources >= _MAX_SOURCES:
            return
        with suppress(Exception):
            if data := await read_source(job.source, self._store):
                self._sources += 1
                self._table.keep_source(job.key, await asyncio.to_thread(thumbnail, data, _EDGE))

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
        await for_each(self.keep_source, [job for job, _ in jobs], _CONCURRENCY)

    async def _keep_output(self, output: tuple[Job, int, str]) -> None:
        job, number, uri = output
        with suppress(Exception):
            if data := await self._store.get(uri.removeprefix(f"{self._store.uri}/")):
                self._table.keep_thumbnail(job.key, number, await asyncio.to_thread(thumbnail, data, _EDGE))
