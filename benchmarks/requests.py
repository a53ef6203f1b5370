"""How many requests a night makes to S3, by kind, and how long it takes: a proxy before the server counts."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from rich.table import Table

from benchmarks.servers import emulator, servers
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.concurrency import for_each
from prefect_wavespeed.job import Job
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.sources.objects import listed_object, objects_below
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import s3_store
from prefect_wavespeed.storage.store import Store
from tests.support.batches import restyle_all
from tests.support.emulator_process import Emulator
from tests.support.s3_proxy import Proxy, proxy
from tests.support.s3_servers import S3Server

KINDS = ("LIST", "HEAD", "GET", "PUT", "POST")
"""POST removes objects, a thousand at a time."""
_PUTS = 64  # at a time
_OPTIONS = BatchOptions(concurrency=200)


@dataclass(frozen=True)
class Night:
    """What one night came to."""

    name: str
    seconds: float
    requests: Counter[str]
    statuses: Counter[str]


class Prefix:
    """Sources below a prefix of a bucket, and an output beside it.

    Args:
        server: where they are.
        way: the proxy that nights go by.
        seen: the server as it is reached by the proxy.
        api: the emulator.
    """

    def __init__(self, server: S3Server, way: Proxy, seen: S3Server, api: Emulator) -> None:
        self._way, self._api, self._server = way, api, server
        self._sources = self._below(server, "in")
        self._output = self._below(server, "out")
        self._seen = self._below(seen, "out")

    def _below(self, server: S3Server, prefix: str) -> Store:
        return s3_store(server.bucket, prefix, server.session(), endpoint_url=server.endpoint)

    async def put_sources(self, numbers: Iterable[int]) -> None:
        """Put different pictures of some hundred bytes."""

        async def put(number: int) -> None:
            await self._sources.put(f"{number:06}.png", _png(number), "image/png")

        await for_each(put, numbers, _PUTS)

    async def finish_all(self) -> None:
        """Put what earlier nights leave: a picture and a side-car for each source that there is now."""

        async def finish(job: Job) -> None:
            await self._output.put(layout.picture(job.name, 1, "jpeg"), b"1", "image/jpeg")
            await self._output.put(layout.metadata(job.name), b"{}", "application/json")

        async for page in objects_below(self._server.bucket, "in/", self._output):
            uris = {f"s3://{self._server.bucket}/{entry.path}": entry for entry in page}
            sources = [listed_object(uri, entry) for uri, entry in uris.items()]
            jobs = [Job(source=source, params=_OPTIONS.params) for source in sources if source]
            await for_each(finish, jobs, _PUTS)

    async def night(self, name: str) -> Night:
        """Restyle the prefix, and count what reaches the server."""
        self._way.requests.clear()
        began = time.monotonic()
        manifest = f"s3://{self._server.bucket}/in/"
        finished = await restyle_all(self._api.url, self._seen, manifest, _OPTIONS, settings=Settings())
        requests = Counter(_kind(method, path) for method, path, _ in self._way.requests)
        return Night(name, time.monotonic() - began, requests, Counter(finished.statuses))


def requests_by_kind(images: int) -> Iterator[Table]:
    """A first and a second night over as many images, each of which must be uploaded."""

    async def nights(prefix: Prefix) -> list[Night]:
        await prefix.put_sources(range(images))
        return [await prefix.night("first"), await prefix.night("second")]

    for kind, prefix in _prefixes():
        title = f"{images:,} sources below a prefix, uploaded to WaveSpeedAI: {kind}"
        yield _table(title, asyncio.run(nights(prefix)))


def huge_prefix(images: int, new: int) -> Iterator[Table]:
    """A night over a prefix of so many images, of which all but some are done."""

    async def nights(prefix: Prefix) -> list[Night]:
        await prefix.put_sources(range(images - new))
        await prefix.finish_all()
        await prefix.put_sources(range(images - new, images))
        return [await prefix.night(f"{new:,} new"), await prefix.night("none new")]

    for kind, prefix in _prefixes():
        yield _table(f"a prefix of {images:,} images: {kind}", asyncio.run(nights(prefix)))


def _prefixes() -> Iterator[tuple[str, Prefix]]:
    with emulator() as api:
        for kind, server in servers():
            with proxy(server) as (way, seen):
                yield kind, Prefix(server, way, seen, api)


def _table(title: str, nights: list[Night]) -> Table:
    table = Table(title=title)
    table.add_column("night")
    for column in (*KINDS, "all", "an image\nstored", "seconds", "stored", "done"):
        table.add_column(column, justify="right")
    for night in nights:
        stored, total = night.statuses["stored"], night.requests.total()
        table.add_row(
            night.name,
            *(f"{night.requests[kind]:,}" for kind in KINDS),
            f"{total:,}",
            f"{total / stored:.2f}" if stored else "",
            f"{night.seconds:.1f}",
            f"{stored:,}",
            f"{night.statuses['done']:,}",
        )
    return table


def _kind(method: str, path: str) -> str:
    return "LIST" if "list-type" in parse_qs(urlsplit(path).query) else method


def _png(number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (number >> 16, number >> 8 & 255, number & 255)).save(data, "PNG")
    return data.getvalue()
