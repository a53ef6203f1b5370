"""A bucket's prefix as a store.

obstore moves the bytes; boto3 says who we are (its credential chain, profiles, assumed roles) and where the
endpoint is.
"""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cachetools import LRUCache, cachedmethod
from obstore.exceptions import BaseError
from obstore.store import S3Store

from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.retry import retry
from prefect_wavespeed.storage.backend import Backend, Entry, PutMode, entry, is_for_a_key, is_plain
from prefect_wavespeed.storage.errors import is_conflict
from prefect_wavespeed.storage.identity import SessionCredentials
from prefect_wavespeed.storage.seek import PAGE, seek
from prefect_wavespeed.trust import ca_bundle

_CONSOLES = {"cn": "amazonaws.cn", "us-gov": "amazonaws-us-gov.com"}
_RETRIES: Any = {
    "max_retries": 4,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=3), "base": 2},
    "retry_timeout": timedelta(seconds=30),
}
_HANDLES = 32  # that an S3Access keeps

_NO_RETRIES: Any = {**_RETRIES, "max_retries": 0}
_CONFLICTS: Any = {"tries": 5, "when": is_conflict, "first": 0.2, "most": 2.0}

_T = TypeVar("_T")

_CONFIG = Config(
    s3={"addressing_style": "path"}, connect_timeout=5, retries={"mode": "standard", "max_attempts": 5}
)


@cache
def _wait_at_exit() -> None:
    """Let obstore's threads finish: one that hands over an answer while Python ends aborts the process.

    https://github.com/PyO3/pyo3-async-runtimes/issues/40: without it, one in four processes that end right
    after a call dies by SIGABRT.
    """
    atexit.register(time.sleep, 0.1)


class S3Access:
    """Who we are on an S3 server and where it is.

    Args:
        session: boto3 session: region and credentials.
        endpoint_url: a server other than the session's configuration names.
        verify: False accepts a certificate that cannot be verified.

    Raises:
        ConfigurationError: the endpoint or the session's configuration cannot be used.
    """

    def __init__(
        self, session: boto3.Session, *, endpoint_url: str | None = None, verify: bool = True
    ) -> None:
        self.session = session
        self.verify = verify
        self._handles: LRUCache[Hashable, S3Store] = LRUCache(_HANDLES)
        self._lock = RLock()
        try:
            # False is not the default: None lets boto3 read AWS_CA_BUNDLE
            self._client: Any = session.client(
                "s3", endpoint_url=endpoint_url, config=_CONFIG, verify=None if verify else False
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"invalid S3 configuration: {redact(error)}") from None
        self.endpoint_url: str = self._client.meta.endpoint_url
        self.region: str = self._client.meta.region_name or "us-east-1"

    @property
    def is_aws(self) -> bool:
        """Whether the server is Amazon's: WaveSpeedAI can reach that, and so fetch by a presigned URL."""
        host = urlsplit(self.endpoint_url).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def console_url(self, bucket: str, key: str) -> str | None:
        """Where Amazon's console shows an object to those who may see it; None on another server."""
        if not self.is_aws:
            return None
        domain = _CONSOLES.get(self.region.rsplit("-", 2)[0], "aws.amazon.com")
        query = urlencode({"region": self.region, "prefix": key}, quote_via=quote)
        return f"https://{self.region}.console.{domain}/s3/object/{quote(bucket)}?{query}"

    @cachedmethod(lambda self: self._handles, lock=lambda self: self._lock)
    def bucket(self, name: str, prefix: str = "", *, retries: bool = True) -> S3Store:
        """An obstore handle on a bucket; the same one each time, as it costs 5 ms and keeps connections.

        Raises:
            ConfigurationError: no credentials are found, or a name is not valid.
        """
        _wait_at_exit()
        authority = ca_bundle() if self.verify else None
        try:
            return S3Store(
                name,
                prefix=prefix or None,
                endpoint=self.endpoint_url,
                region=self.region,
                virtual_hosted_style_request=False,
                credential_provider=SessionCredentials(self.session),
                client_options={
                    "allow_http": True,
                    "allow_invalid_certificates": not self.verify,
                    "connect_timeout": "5s",
                    "timeout": "120s",
                    **({"root_certificate": authority} if authority else {}),
                },
                retry_config=_RETRIES if retries else _NO_RETRIES,
            )
        except ValueError as error:
            if "get_credentials" not in str(error):
                raise ConfigurationError(f"{redact(error)}: bucket s3://{name}") from None
            raise ConfigurationError(
                f"no AWS credentials found: bucket s3://{name}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, set AWS_PROFILE, or run where a role is attached"
            ) from None
        except (BaseError, BotoCoreError) as error:
            raise ConfigurationError(f"{redact(error)}: bucket s3://{name}") from None

    def pages(self, bucket: str, prefix: str, after: str = "") -> Iterator[list[Entry]]:
        """All objects whose keys begin with ``prefix``, whatever the keys, a page at a time; it blocks.

        obstore's listing ends with an error at the first key that it has no path for (``is_plain``).

        Args:
            bucket: the bucket's name.
            prefix: a text, not a folder.
            after: only keys that sort after this one.

        Raises:
            BotoCoreError, ClientError: it cannot be listed now.
        """
        start = {"StartAfter": after} if after else {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **start)
        for page in pages:
            found = page.get("Contents", ())
            yield [Entry(item["Key"], item["LastModified"], item["Size"], item.get("ETag")) for item in found]

    def look_at_bucket(self, bucket: str) -> tuple[int | None, str | None]:
        """The status with which a bucket answers (None where nothing does), and its region, if told."""
        try:
            answer = self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
        except (BotoCoreError, ValueError):
            return None, None
        meta = answer.get("ResponseMetadata", {})
        return meta.get("HTTPStatusCode"), meta.get("HTTPHeaders", {}).get("x-amz-bucket-region")


def environment_access() -> S3Access:
    """The server and identity that the environment names, by boto3's credential chain and endpoint variables.

    Raises:
        ConfigurationError: they cannot be used.
    """
    try:
        session = boto3.Session()
    except BotoCoreError as error:
        raise ConfigurationError(f"invalid AWS configuration: {redact(error)}") from None
    return S3Access(session)


class S3Backend(Backend):
    """Calls on a bucket's prefix; they are retried for up to half a minute, and after a conflict.

    S3 answers 409 while something else happens to an object or its bucket; obstore takes that for an object
    that exists.

    Args:
        access: the server.
        bucket: the bucket's name.
        prefix: without a slash at either end.
    """

    lists_by_name = True
    parts_at_once = 4

    def __init__(self, access: S3Access, bucket: str, prefix: str) -> None:
        super().__init__(access.bucket(bucket, prefix), (access.endpoint_url, bucket))
        self._location = access, bucket, prefix

    @property
    def is_immediate(self) -> bool:
        """False: a call is a round trip."""
        return False

    @cached_property
    def _without_retries(self) -> S3Store:
        access, bucket, prefix = self._location
        return access.bucket(bucket, prefix, retries=False)

    def attributes(self, content_type: str, metadata: Mapping[str, str]) -> Any:
        """The object's headers."""
        return {"Content-Type": content_type, **metadata}

    async def put(
        self, path: str, data: bytes, content_type: str, metadata: Mapping[str, str], mode: PutMode
    ) -> None:
        """Put an object by one request."""
        attributes = self.attributes(content_type, metadata)
        put = partial(obstore.put_async, mode=mode, attributes=attributes, use_multipart=False)
        await _patiently(lambda: put(self.handle, path, data))

    async def put_file(self, path: str, file: Path, content_type: str) -> None:
        """Put a file of any size, over what exists; in several parts where it is big."""
        await _patiently(partial(super().put_file, path, file, content_type))

    async def get(self, path: str) -> bytes:
        """Read an object."""
        result = await _patiently(lambda: obstore.get_async(self.handle, path))
        return bytes(await result.bytes_async())

    async def get_file(self, path: str, file: Path) -> None:
        """Read an object of any size into a file."""
        await _patiently(partial(super().get_file, path, file))

    async def head(self, path: str) -> Entry:
        """Look at an object without its bytes."""
        return await _patiently(partial(super().head, path))

    async def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix, by name."""
        try:
            # one step from Python to obstore and back, not one for each page
            found = await _patiently(lambda: obstore.list(self.handle, prefix=prefix).collect_async())
            return [entry(meta) for meta in found]
        except BaseError as error:
            if not is_for_a_key(error):
                raise
            return [found async for page in self._plain_pages(prefix, "") for found in page]

    async def pages(self, prefix: str, start: str) -> AsyncIterator[Sequence[Entry]]:
        """All objects below a prefix whose names there begin with ``start``, a page at a time."""
        last = ""
        try:
            async for page in super().pages(prefix, start):
                last = page[-1].path if page else last
                yield page
        except BaseError as error:
            if not is_for_a_key(error):
                raise
            async for page in self._plain_pages(prefix + start, last):
                yield page

    async def find(self, folder: str, wanted: Sequence[str]) -> Mapping[str, Sequence[Entry]]:
        """The objects at many paths below a folder."""
        return await seek(partial(self.page, folder), wanted)

    async def page(self, folder: str, after: str) -> Sequence[Entry]:
        """A thousand objects below a folder that follow a path, or all that do."""
        try:
            async for page in obstore.list(self.handle, prefix=folder, offset=after, chunk_size=PAGE):
                return [entry(meta) for meta in page]
        except BaseError as error:
            if not is_for_a_key(error):
                raise
        else:
            return []
        plain: list[Entry] = []
        async for some in self._plain_pages(folder, after):
            plain += some
            if len(plain) >= PAGE:
                break
        return plain

    async def _plain_pages(self, beginning: str, after: str) -> AsyncIterator[Sequence[Entry]]:
        """What obstore would list, if somebody's odd key did not stop it: no such key is of this project."""
        access, bucket, prefix = self._location
        root = f"{prefix}/" if prefix else ""
        pages = access.pages(bucket, root + beginning, after and root + after)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            plain = [found for found in page if is_plain(found.path)]
            yield [replace(found, path=found.path.removeprefix(root)) for found in plain]

    async def delete(self, paths: Sequence[str], *, once: bool) -> None:
        """Remove objects; ``once``: without a retry if the answer is lost."""
        if once:
            await obstore.delete_async(self._without_retries, paths)
        else:
            await _patiently(lambda: obstore.delete_async(self.handle, paths))


async def _patiently(call: Callable[[], Awaitable[_T]]) -> _T:
    """Call, and again after a conflict; nearly every call succeeds, and ``retry`` would cost each 30 µs."""
    try:
        return await call()
    except BaseError as error:
        if not is_conflict(error):
            raise
        conflicts = [error]

    async def again() -> _T:
        if conflicts:
            raise conflicts.pop()
        return await call()

    return await retry(again, **_CONFLICTS)
