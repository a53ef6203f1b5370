"""Source pictures: what makes one itself, and how WaveSpeedAI gets to see it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from prefect_wavespeed.api.client import WaveSpeedClient, is_loopback
from prefect_wavespeed.errors import SourceDeniedError, SourceError, StoreError, redact
from prefect_wavespeed.job import Source
from prefect_wavespeed.quality.pictures import SOURCE_LIMIT, verify_source
from prefect_wavespeed.storage.errors import translate
from prefect_wavespeed.storage.open_store import s3_access
from prefect_wavespeed.storage.store import Store

PRESIGNED_FOR = timedelta(hours=1)
# WaveSpeedAI keeps uploads for 7 days; an hour is left for it to fetch the picture.
UPLOAD_KEPT = timedelta(days=7) - timedelta(hours=1)
_KNOWN = 10_000  # uploads that are known to be there, before they are asked for again

_OURS = frozenset({"job-key", "prediction-id"})  # what every picture that is stored bears as metadata

# Query parameters by which stores sign a URL or let its bearer in: they move, the picture stays.
_SIGNED = re.compile(
    r"(?i)x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|ossaccesskeyid|signature|key-pair-id|policy"
    r"|x-(oss|tos|obs|cos|bce)-.*|q-(sign-algorithm|ak|sign-time|key-time|header-list|url-param-list|signature)"
    r"|accesskeyid|authorization|security-token|(access_|auth_?)?token|sig"
)
_SIGNED_WITH = {
    "signature": {"expires"},  # S3 version 2, CloudFront, OSS
    "sig": {
        "sv",
        "ss",
        "srt",
        "sp",
        "st",
        "se",
        "spr",
        "sr",
        "sip",
        "skoid",
        "sktid",
        "skt",
        "ske",
        "sks",
        "skv",
    },
}


def without_signature(url: str) -> str:
    """A URL without what signs it, its credentials and its fragment: the same picture has the same one."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = {name.lower() for name, _ in query}
    drop = set().union(*(extra for sign, extra in _SIGNED_WITH.items() if sign in names))
    kept = [(n, v) for n, v in query if not _SIGNED.fullmatch(n) and n.lower() not in drop]
    host = (parts.netloc.rpartition("@")[2]).lower()
    return urlunsplit((parts.scheme.lower(), host, parts.path, urlencode(kept), ""))


async def identify(image: str, store: Store) -> Source:
    """Find out which picture is meant, and refuse one that cannot be used, before anything is spent.

    Args:
        image: https URL, ``s3://bucket/key``, or a local path.
        store: where outputs go: an S3 source is read with its credentials, if it is on S3.

    Raises:
        SourceError: it is missing, cannot be read, is no image, or has more than 20 MB.
    """
    check_name(image)
    scheme, separator, _ = image.partition("://")
    if not separator:
        return await _identify_file(image, store)
    if scheme.lower() == "s3":
        return await _identify_object(image, store)
    return identify_url(image)


def check_name(image: str) -> None:
    """Refuse what can name no picture, without looking whether there is one.

    Raises:
        SourceError: it is empty, or no https URL, ``s3://bucket/key`` or path.
    """
    odd = not image.isprintable() and {unicodedata.category(character) for character in image}
    if odd and not odd.isdisjoint({"Cc", "Cs"}):
        raise SourceError(f"image {redact(image)!r} holds a character that no path and no URL has")
    if not image.strip():
        raise SourceError("image is empty: give an https URL, s3://bucket/key, or the path of a picture")
    scheme, separator, rest = image.partition("://")
    if scheme.lower() == "s3":
        bucket, _, key = rest.partition("/")
        if separator and not (bucket and key):
            raise SourceError(f"image {image}: give s3://bucket/key")
    elif separator:
        identify_url(image)


def identify_url(image: str) -> Source:
    """The picture that a URL means; nothing is fetched.

    Raises:
        SourceError: it is no URL that WaveSpeedAI could fetch.
    """
    try:
        shown, parts = without_signature(image), urlsplit(image)
        port = parts.port
    except ValueError as error:
        raise SourceError(f"image {redact(image)}: not a URL: {redact(error)}") from None
    if parts.scheme.lower() not in ("https", "http"):
        raise SourceError(
            f"image {shown}: {parts.scheme}:// is not supported: give https://, s3:// or a path"
        )
    if not parts.hostname or port == 0:
        raise SourceError(f"image {shown}: the URL names no host")
    if parts.username or parts.password:
        raise SourceError(
            f"image {shown}: a URL with a password in it would be shown to WaveSpeedAI: sign it instead"
        )
    if parts.scheme.lower() == "http" and not is_loopback(parts.hostname):
        raise SourceError(f"image {shown}: WaveSpeedAI wants https://")
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.hostname
    return Source(uri=shown, identity=shown, name=name, location=image)


async def _identify_object(image: str, store: Store) -> Source:
    bucket, key = _located(image, store)
    try:
        meta = await obstore.head_async(bucket, key)
    except (BaseError, OSError) as error:
        raise _unreadable(image, error) from None
    if meta["size"] > SOURCE_LIMIT:
        raise SourceError(_too_big(image, meta["size"]))
    return object_source(image, meta["version"], meta["e_tag"])


def object_source(uri: str, version: str | None, etag: str | None) -> Source:
    """The picture that one version of an S3 object is; nothing is fetched."""
    mark = f"version={version}" if version and version != "null" else f"etag={(etag or '').strip(chr(34))}"
    return Source(uri=uri, identity=f"{uri}#{mark}", name=uri.rpartition("/")[2], location=uri)


class FoundObject:
    """An S3 object as one GET tells it; its bytes are on their way only when they are asked for.

    Attributes:
        source: the picture that it would be.
        metadata: what its owner wrote on it, names in lower case.
    """

    def __init__(self, uri: str, result: obstore.GetResult) -> None:
        meta = result.meta
        self.source = object_source(uri, meta["version"], meta["e_tag"])
        self.metadata = {str(name).lower(): value for name, value in result.attributes.items()}
        self._size = meta["size"]
        self._result = result

    @property
    def ours(self) -> bool:
        """Whether it is a picture that this project stored, or a copy of one."""
        return self.metadata.keys() >= _OURS

    async def read(self) -> bytes:
        """Its bytes.

        Raises:
            SourceError: it has more than 20 MB; nothing of it is read.
            StoreError: it cannot be read now.
        """
        if self._size > SOURCE_LIMIT:
            raise SourceError(_too_big(f"image {self.source.uri}", self._size))
        try:
            return bytes(await self._result.bytes_async())
        except (BaseError, OSError) as error:
            raise _unreadable(self.source.uri, error) from None


async def find_object(uri: str, store: Store, *, with_bytes: bool = True) -> FoundObject:
    """What lies at ``s3://bucket/key`` now; without its bytes where they are not wanted.

    Raises:
        SourceError: there is none; SourceDeniedError where these credentials may not read it.
        StoreError: the server is away.
    """
    check_name(uri)
    bucket, key = _located(uri, store)
    try:
        return FoundObject(uri, await obstore.get_async(bucket, key, options={"head": not with_bytes}))
    except (BaseError, OSError) as error:
        raise _unreadable(uri, error) from None


async def _identify_file(image: str, store: Store) -> Source:
    data = await asyncio.to_thread(read_file, image)
    verify_source(data, f"image {image}")
    sha256 = hashlib.sha256(data).hexdigest()
    path = Path(os.path.abspath(os.path.expanduser(image)))  # noqa: ASYNC240, PTH100, PTH111 - no I/O
    # The same bytes are the same job under any file name, so the first name seen is the job's for good.
    name = await _first_name(sha256, path.name, store)
    return Source(
        uri=path.as_uri(), identity=f"sha256:{sha256}", name=name, location=str(path), sha256=sha256
    )


async def _first_name(sha256: str, name: str, store: Store) -> str:
    path = f"sources/{sha256}.json"
    there = await store.get(path)
    if there is None and await store.create(path, json.dumps({"name": name}).encode()):
        return name
    there = there or await store.get(path)
    return str(json.loads(there)["name"]) if there else name


def read_file(image: str) -> bytes:
    """The bytes of a local picture.

    Raises:
        SourceError: it is missing, cannot be read, or has more than 20 MB.
    """
    path = Path(image).expanduser()
    try:
        size = path.stat().st_size
        if size > SOURCE_LIMIT:
            raise SourceError(_too_big(f"image {image}", size))
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceError(f"image {image}: no such file") from None
    except IsADirectoryError:
        raise SourceError(f"image {image} is a directory: name a picture in it") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"image {image}: {redact(getattr(error, 'strerror', None) or error)}") from None


class Publisher:
    """Gives a source a URL that WaveSpeedAI can fetch, as late as possible.

    Args:
        client: what uploads go through.
        store: where uploads are remembered, so that the same bytes are sent once a week, unless WaveSpeedAI
            loses them.
    """

    def __init__(self, client: WaveSpeedClient, store: Store) -> None:
        self._client = client
        self._store = store
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: defaultdict[str, int] = defaultdict(int)
        self._there: set[str] = set()

    async def url(self, source: Source) -> str:
        """The URL to submit. It may be signed: a secret.

        Raises:
            SourceError: the source changed since it was identified, or is no image.
            RestyleError: the upload failed, as WaveSpeedClient.upload says.
        """
        scheme, separator, _ = source.location.partition("://")
        if not separator:
            return await self._uploaded(await asyncio.to_thread(read_file, source.location), source)
        if scheme.lower() != "s3":
            return source.location
        if s3_access(self._store).is_aws:
            bucket, key = _located(source.location, self._store)
            return str(await obstore.sign_async(bucket, "GET", key, PRESIGNED_FOR))
        found = await find_object(source.location, self._store)
        if found.source.identity != source.identity:
            raise SourceError(f"image {source.uri} changed while it was being used: run it again")
        return await self._uploaded(await found.read(), source)

    async def _uploaded(self, data: bytes, source: Source) -> str:
        info = verify_source(data, f"image {source.uri}")
        sha256 = hashlib.sha256(data).hexdigest()
        if source.sha256 not in (None, sha256):
            raise SourceError(f"image {source.uri} changed while it was being used: run it again")
        host = urlsplit(self._client.base_url).netloc.replace(":", "-")
        async with self._one_at_a_time(sha256):
            folder = f"uploads/{sha256}/{host}/"
            if url := await self._remembered(folder):
                return url
            url = await self._client.upload(source.name, data, info.content_type)
            self._note(url)
            stamp = self._store.now().strftime("%Y%m%dT%H%M%S%fZ")
            await self._store.create(f"{folder}{stamp}.json", json.dumps({"url": url}).encode())
            return url

    async def _remembered(self, folder: str) -> str | None:
        """The URL of the newest upload, unless it is too old or gone before its time."""
        entries = await self._store.list(folder)
        newest = max(entries, key=lambda entry: (entry.last_modified, entry.path), default=None)
        if newest is None or self._store.now() - newest.last_modified >= UPLOAD_KEPT:
            return None
        if (there := await self._store.get(newest.path)) is None:
            return None
        url = str(json.loads(there)["url"])
        if url not in self._there:
            if await self._client.is_gone(url):
                return None
            self._note(url)
        return url

    def _note(self, url: str) -> None:
        """Not to ask again for each of many jobs whether it is there."""
        if len(self._there) >= _KNOWN:
            self._there.clear()
        self._there.add(url)

    @asynccontextmanager
    async def _one_at_a_time(self, sha256: str) -> AsyncIterator[None]:
        self._waiting[sha256] += 1
        try:
            async with self._locks[sha256]:
                yield
        finally:
            self._waiting[sha256] -= 1
            if not self._waiting[sha256]:
                del self._waiting[sha256], self._locks[sha256]


async def read_source(source: Source, store: Store) -> bytes | None:
    """The picture itself where it lies with us; None for a URL: WaveSpeedAI fetches that, we need not.

    Raises:
        SourceError: it cannot be read any more, or has more than 20 MB.
    """
    scheme, separator, _ = source.location.partition("://")
    if not separator:
        return await asyncio.to_thread(read_file, source.location)
    if scheme.lower() != "s3":
        return None
    return await (await find_object(source.location, store)).read()


def _located(image: str, store: Store) -> tuple[S3Store, str]:
    """The bucket and the key of ``s3://bucket/key``."""
    bucket, _, key = image[len("s3://") :].partition("/")
    if not {"", ".", ".."}.isdisjoint(key.split("/")):  # obstore would refuse it, or read another object
        raise SourceError(f"image {image}: a key with an empty part, '.' or '..' in it cannot be read")
    return s3_access(store).bucket(bucket), key


def _unreadable(image: str, error: Exception) -> SourceError | StoreError:
    """What is wrong with the picture; a StoreError where it is the server that is away."""
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
        return SourceError(f"image {image}: no such object")
    if "Metadata value for" in str(error):  # some servers take what S3 does not allow, and obstore reads none
        return SourceError(f"image {image}: its metadata is not ASCII: put it anew with metadata that is")
    problem = translate(error, f"image {image} cannot be read")
    forbidden = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    kind = SourceDeniedError if forbidden or not problem.retryable else StoreError
    return kind(problem.message)


def _too_big(image: str, size: int) -> str:
    return f"{image} has {size / 2**20:.1f} MB: WaveSpeedAI takes up to {SOURCE_LIMIT / 2**20:.0f} MB"
