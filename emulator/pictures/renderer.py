"""Making the pictures of a prediction in threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import aiohttp

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.emulator.pictures import styles
from prefect_wavespeed.emulator.pictures.files import FLAWS, Picture, flawed
from prefect_wavespeed.emulator.uploads import Uploads

_Made = TypeVar("_Made")


class Renderer:
    """Fetches a source and makes variations of it.

    Args:
        uploads: files that sources may refer to.
        session: for sources elsewhere.
        prerendered: return the same picture for every request of a size, to measure throughput.
    """

    def __init__(self, uploads: Uploads, session: aiohttp.ClientSession, *, prerendered: bool) -> None:
        self._uploads = uploads
        self._session = session
        self._prerendered = prerendered
        self._samples: dict[tuple[int, int, str], bytes] = {}
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="render")

    async def render(self, request: ReduxRequest, flaw: str | None = None) -> list[Picture]:
        """Return the outputs, with one of `FLAWS` if need be.

        Raises:
            FetchError: the source cannot be fetched.
            NotAPictureError: the source cannot be decoded.
        """
        made = await self._make(request)
        pictures = [Picture(data, request.output_format) for data in made]
        return await self._in_thread(partial(flawed, pictures, flaw)) if flaw in FLAWS else pictures

    async def _make(self, request: ReduxRequest) -> list[bytes]:
        if self._prerendered:
            return [self._sample(request)] * request.num_images
        source = await self._uploads.fetch(request.image, self._session)
        seed = request.seed if request.seed >= 0 else random.randrange(2**31)
        return [await self._vary(source, request, seed + number) for number in range(request.num_images)]

    def close(self) -> None:
        """Stop at once."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _vary(self, source: bytes, request: ReduxRequest, seed: int) -> bytes:
        make = partial(
            styles.variation,
            source,
            request.width,
            request.height,
            request.output_format,
            seed,
            request.guidance_scale,
        )
        return await self._in_thread(make)

    async def _in_thread(self, make: Callable[[], _Made]) -> _Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)

    def _sample(self, request: ReduxRequest) -> bytes:
        wanted = (request.width, request.height, request.output_format)
        if wanted not in self._samples:
            self._samples[wanted] = styles.sample(*wanted)
        return self._samples[wanted]
