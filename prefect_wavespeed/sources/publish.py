"""How WaveSpeedAI gets to see a source: by the source's own URL, a presigned one, or an upload."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import obstore
from cachetools import LRUCache, TTLCache
from pydantic import BaseModel, ValidationError

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.concurrency import Room
from prefect_wavespeed.errors import InvalidRequestError, RestyleError
from prefect_wavespeed.job import Source
from prefect_wavespeed.quality.formats import true_name
from prefect_wavespeed.quality.verify import examine_source
from prefect_wavespeed.sources.files import read_file, size_of_file
from prefect_wavespeed.sources.known_uploads import KnownUploads
from prefect_wavespeed.sources.objects import changed, check_object, find_object, handle_and_key
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

PRESIGNED_FOR = timedelta(hours=1)
# WaveSpeedAI keeps uploads for 7 days; an hour is left for it to fetch the picture.
UPLOAD_KEPT_FOR = timedelta(days=7) - timedelta(hours=1)
_VERIFIED_UPLOADS = 10_000
_VERIFIED_SECONDS = 600  # a process may live longer than an upload
_SENT_SECONDS = 60  # in which another upload would be no better

_NOT_FETCHED = re.compile(
    r"(?i)1402|fetch|download|\bload|retriev|access|reach|not found|expired|\b(403|404|410)\b"
)

# Of sources at a time: sending one takes its size once more.
_IN_HAND = 64 * 2**20

OnThumbnail = Callable[[bytes], object]


class _Upload(BaseModel):
    """Where a picture was uploaded to."""

    url: str


async def presigned(uri: str, store: Store) -> str:
    """A URL by which anyone can read an S3 object for an hour: a secret.

    Args:
        uri: ``s3://bucket/key``.
        store: whose server it is on, and whose credentials sign.

    Raises:
        SourceError: no object can have this uri, or there are no credentials.
    """
    bucket, key = handle_and_key(uri, store)
    return str(await obstore.sign_async(bucket, "GET", key, PRESIGNED_FOR))


class Publisher:
    """Gives a source a URL that WaveSpeedAI can fetch, as late as possible.

    Args:
        client: uploads go through it.
        store: uploads are recorded in it, so that the same bytes are sent once a week, unless WaveSpeedAI
            loses them.
    """

    def __init__(self, client: WaveSpeedClient, store: Store) -> None:
        self._client = client
        self._store = store
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._known = KnownUploads(store)
        # Uploads that were seen to exist, by the picture's digest: many jobs of one source ask once.
        self._verified: TTLCache[str, str] = TTLCache(_VERIFIED_UPLOADS, ttl=_VERIFIED_SECONDS)
        self._lost: LRUCache[str, bool] = LRUCache(_VERIFIED_UPLOADS)  # those that WaveSpeedAI cannot fetch
        self._sent: TTLCache[str, bool] = TTLCache(_VERIFIED_UPLOADS, ttl=_SENT_SECONDS)
        self._room = Room(_IN_HAND)

    async def url(self, source: Source, on_thumbnail: OnThumbnail | None = None) -> str:
        """The URL to submit. It may be signed: a secret.

        Args:
            source: the picture.
            on_thumbnail: called with a small JPEG where the picture is read, which is not so for URLs and on
                AWS, and can be decoded.

        Raises:
            SourceError: the source changed since it was identified, or is no image, or does not decode. On
                AWS only its first bytes are looked at.
            RestyleError: the upload failed, as WaveSpeedClient.upload says.
        """
        scheme, separator, _ = source.location.partition("://")
        if not separator:
            async with self._room.hold(await size_of_file(source.location)):
                data = await read_file(source.location)
                return await self._uploaded(data, source, on_thumbnail)
        if scheme.lower() != "s3":
            return source.location
        if self._store.source_access.is_aws:
            await check_object(source, self._store)
            return await presigned(source.location, self._store)
        found = await find_object(source.location, self._store)
        if found.source.identity != source.identity:
            raise changed(source)
        async with self._room.hold(found.size):
            return await self._uploaded(await found.read(), source, on_thumbnail)

    def forget(self, url: str, source: Source, error: RestyleError) -> bool:
        """Have ``url`` give another URL the next time, if WaveSpeedAI could not fetch this one.

        Args:
            url: that a picture was submitted by.
            source: the picture.
            error: why the submission was refused.

        Returns:
            Whether another one may help: an upload that was sent just now is no better the next time.
        """
        if url == source.location or not isinstance(error, InvalidRequestError):
            return False
        if not _NOT_FETCHED.search(error.message):
            return False
        self._lost[url] = True
        return url not in self._sent

    async def _uploaded(self, data: bytes, source: Source, on_thumbnail: OnThumbnail | None) -> str:
        examined = await asyncio.to_thread(
            examine_source, data, f"image {source.uri}", with_thumbnail=on_thumbnail is not None
        )
        info = examined.info
        sha256 = hashlib.sha256(data).hexdigest()
        if source.sha256 not in (None, sha256):
            raise changed(source)
        if on_thumbnail and examined.thumbnail:
            on_thumbnail(examined.thumbnail)
        host = urlsplit(self._client.base_url).netloc
        lock = self._locks.setdefault(sha256, asyncio.Lock())  # gone with the last one that waits for it
        async with lock:
            if url := await self._recorded_upload(sha256, host):
                return url
            try:
                url = await self._client.upload(true_name(source.name, info.format), data, info.content_type)
            except RestyleError as error:
                error.message = f"{error.message}: upload of {source.uri}"
                raise
            self._verified[sha256], self._sent[url] = url, True
            self._known.add(sha256)
            path = layout.upload(sha256, host, self._store.now())
            await self._store.create(path, _Upload(url=url).model_dump_json().encode())
            return url

    async def _recorded_upload(self, sha256: str, host: str) -> str | None:
        """The URL of the newest upload, unless it is too old or WaveSpeedAI has lost it."""
        if (url := self._verified.get(sha256)) and url not in self._lost:
            return url
        await self._store.ensure_conditional_put()  # which also reads the store's clock
        since = self._store.now() - UPLOAD_KEPT_FOR
        if not await self._known.may_have(sha256, since):
            return None
        entries = await self._store.list(layout.uploads(sha256, host))
        newest = max(entries, key=lambda entry: (entry.last_modified, entry.path), default=None)
        if newest is None or newest.last_modified <= since:
            return None
        data = await self._store.get(newest.path)
        if data is None:
            return None
        try:
            url = _Upload.model_validate_json(data).url
        except ValidationError:
            return None
        if url in self._lost:
            return None
        if await self._client.is_gone(url):
            return None
        self._verified[sha256] = url
        return url
