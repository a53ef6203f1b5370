"""Where objects live: S3 or a directory, with the same promises.

obstore moves the bytes; boto3 says who we are (its credential chain, profiles, assumed roles) and
where the endpoint is.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import boto3
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import LocalStore, S3Store

from prefect_wavespeed.errors import ConfigurationError, StoreError, UnsafeStoreError, redact

_RETRIES: Any = {
    "max_retries": 4,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=3), "base": 2},
    "retry_timeout": timedelta(seconds=30),
}

_NO_RETRIES: Any = {**_RETRIES, "max_retries": 0}

_SLOW = 0.005  # seconds a call: then others should not have to wait for a directory

_P = ParamSpec("_P")
_T = TypeVar("_T")

S3_BUCKET = "s3-bucket/"
LOCAL = "local-file-system/"

# Nothing is promised on a bucket until create-if-absent was seen to work there: once a process.
_clocks: dict[str, _Clock] = {}


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    path: str
    last_modified: datetime
    size: int


@dataclass(frozen=True)
class _Clock:
    """The store's clock: a moment of its own, and when we saw it."""

    at: datetime
    seen: float

    def now(self) -> datetime:
        """The time there, a little behind at the most."""
        return self.at + timedelta(seconds=time.monotonic() - self.seen)


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
        endpoint_url: server other than the session's configuration says.
        verify: False accepts a certificate that cannot be verified.
    """

    def __init__(
        self, session: boto3.Session, *, endpoint_url: str | None = None, verify: bool = True
    ) -> None:
        self.session = session
        self.verify = verify
        try:
            config = Config(s3={"addressing_style": "path"})
            client = session.client("s3", endpoint_url=endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"S3: {redact(error)}") from None
        self.endpoint_url: str = client.meta.endpoint_url
        self.region: str = client.meta.region_name or "us-east-1"

    @property
    def is_aws(self) -> bool:
        """Whether it is Amazon's: WaveSpeedAI can reach that, and so fetch by a presigned URL."""
        host = urlsplit(self.endpoint_url).hostname or ""
        return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))

    def bucket(self, name: str, prefix: str = "", retries: Any = _RETRIES) -> S3Store:
        """An obstore handle on a bucket."""
        _wait_at_exit()
        try:
            return S3Store(
                name,
                prefix=prefix or None,
                endpoint=self.endpoint_url,
                region=self.region,
                virtual_hosted_style_request=False,
                credential_provider=Boto3CredentialProvider(self.session),
                client_options={
                    "allow_http": True,
                    "allow_invalid_certificates": not self.verify,
                    "connect_timeout": "5s",
                    "timeout": "120s",
                },
                retry_config=retries,
            )
        except ValueError as error:
            if "get_credentials" not in str(error):
                raise ConfigurationError(f"s3://{name}: {redact(error)}") from None
            raise ConfigurationError(
                f"s3://{name}: no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "AWS_PROFILE, or run where a role is attached"
            ) from None
        except (BaseError, BotoCoreError) as error:
            raise ConfigurationError(f"s3://{name}: {redact(error)}") from None


class Store:
    """A bucket's prefix or a directory. Facts are only ever added, each by one create-if-absent put.

    Every method raises StoreError when the store cannot be read or written now. A directory is worked on at
    once: its calls take a tenth of a millisecond, a change of threads several times that.

    Attributes:
        uri: ``s3://bucket/prefix`` or the directory's path; an object's uri is ``{uri}/{path}``.
        access: the S3 server it is on; None for a directory.
    """

    def __init__(
        self,
        inner: S3Store | LocalStore,
        uri: str,
        access: S3Access | None = None,
        once: S3Store | None = None,
    ) -> None:
        self._inner = inner
        self._once = once or inner
        self._lock = asyncio.Lock()
        self._pace = 0.0  # seconds that a directory takes for a call, of late
        self.uri = uri
        self.access = access

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def at_hand(self) -> bool:
        """Whether calls are answered at once, so that several of them gain nothing by being made together."""
        return self.access is None and self._pace <= _SLOW

    def uri_of(self, path: str) -> str:
        """The full uri of an object."""
        return f"{self.uri}/{path}"

    async def create(
        self,
        path: str,
        data: bytes,
        content_type: str = "application/json",
        metadata: Mapping[str, str] | None = None,
    ) -> bool:
        """Put an object if there is none: one request, never multipart.

        Returns:
            True when it was written, False when there already was one. A put that is sent again after
            its answer was lost meets itself and says False: compare what is there.
        """
        try:
            await self._put(path, data, content_type, metadata, "create")
        except AlreadyExistsError:
            return False
        return True

    async def put(
        self, path: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Put an object, over whatever is there."""
        await self._put(path, data, content_type, metadata, "overwrite")

    async def _put(
        self, path: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None, mode: Any
    ) -> None:
        attributes: Any = {"Content-Type": content_type, **(metadata or {})}
        with self._errors("write", path, passing=AlreadyExistsError):
            if self.access is None:  # a directory has no place for attributes (NotImplementedError)
                await self._here(obstore.put, self._inner, path, data, mode=mode, use_multipart=False)
            else:
                await obstore.put_async(
                    self._inner, path, data, mode=mode, attributes=attributes, use_multipart=False
                )

    async def put_file(self, path: str, file: Path, content_type: str) -> None:
        """Put a file of any size, over whatever is there; in several parts where it is big."""
        with self._errors("write", path):
            await obstore.put_async(
                self._inner,
                path,
                file,
                attributes={"Content-Type": content_type} if self.access else None,
                max_concurrency=4,  # parts of 5 MB that are held at once
            )

    async def get_file(self, path: str, file: Path) -> bool:
        """Fetch an object of any size into a file; False when there is none."""
        with self._errors("read", path):
            try:
                result = await obstore.get_async(self._inner, path)
            except FileNotFoundError:
                return False
            with file.open("wb") as target:
                async for chunk in result.stream():
                    await asyncio.to_thread(target.write, chunk)
        return True

    async def get(self, path: str) -> bytes | None:
        """The object's bytes; None when there is none."""
        with self._errors("read", path):
            try:
                if self.access is None:
                    return await self._here(_read, self._inner, path)
                result = await obstore.get_async(self._inner, path)
                return bytes(await result.bytes_async())
            except FileNotFoundError:
                return None

    async def head(self, path: str) -> Entry | None:
        """What a listing would say of one object; None when there is none."""
        with self._errors("read", path):
            try:
                meta = await obstore.head_async(self._inner, path)
            except FileNotFoundError:
                return None
        return Entry(meta["path"], meta["last_modified"], meta["size"])

    async def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix."""
        with self._errors("list", prefix):
            listing = obstore.list(self._inner, prefix=prefix)
            # one step from Python to the store and back, not one for each page
            found = await (self._here(listing.collect) if self.access is None else listing.collect_async())
        return [Entry(meta["path"], meta["last_modified"], meta["size"]) for meta in found]

    async def pages(self, prefix: str, start: str = "") -> AsyncIterator[Sequence[Entry]]:
        """All objects below a prefix, however many, a page of the listing at a time.

        Args:
            prefix: a folder, with its slash.
            start: leave out all but those whose names there begin like this; S3 is not even asked for them.
        """
        wanted = prefix + start
        with self._errors("list", wanted):
            async for chunk in obstore.list(self._inner, prefix=prefix, offset=wanted if start else None):
                yield [
                    Entry(meta["path"], meta["last_modified"], meta["size"])
                    for meta in chunk
                    if meta["path"].startswith(wanted)
                ]
                if start and self.access and not chunk[-1]["path"].startswith(wanted):
                    return  # S3 lists by name

    async def delete(self, paths: Iterable[str], *, once: bool = False) -> None:
        """Remove objects; one that is gone already is no error.

        Args:
            paths: the objects.
            once: send the request once, even if its answer is lost.
        """
        gone = list(paths)
        inner = self._once if once else self._inner
        with self._errors("delete", ", ".join(gone)):
            if self.access is None:
                await self._here(_remove, inner, gone)
            else:
                await obstore.delete_async(inner, gone)

    async def ensure_conditional_put(self) -> None:
        """Make sure, once a process, that create-if-absent holds here, and read the store's clock.

        Raises:
            UnsafeStoreError: the store lets a second create overwrite the first.
        """
        if self.uri in _clocks:
            return
        async with self._lock:
            if self.uri in _clocks:
                return
            probe = f".probe/{uuid.uuid4().hex}"
            await self.create(probe, b"1", "text/plain")
            overwritten = await self.create(probe, b"2", "text/plain")
            seen = await self.head(probe)
            read_at = time.monotonic()
            await self.delete([probe])
            if overwritten:
                raise UnsafeStoreError(
                    f"{self.uri}: this store ignores create-if-absent (If-None-Match: *), so two runs "
                    "could both bill one image: use AWS S3, Ceph, MinIO, R2 or a directory"
                )
            if seen is None:
                raise StoreError(f"{self.uri}: an object that was just written is not there")
            _clocks[self.uri] = _Clock(seen.last_modified, read_at)

    def now(self) -> datetime:
        """The time by the store's clock, never ahead of it (after ``ready``)."""
        return _clocks[self.uri].now()

    async def _here(self, call: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
        """Work on a directory: at once, or in a thread where it has been answering slowly (a network's)."""
        if not self.at_hand:
            return await asyncio.to_thread(lambda: self._timed(call, *args, **more))
        return self._timed(call, *args, **more)

    def _timed(self, call: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
        start = time.perf_counter()
        try:
            return call(*args, **more)
        finally:
            self._pace += 0.1 * (time.perf_counter() - start - self._pace)

    @contextmanager
    def _errors(self, verb: str, path: str, passing: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        try:
            yield
        except passing:
            raise
        except (NotSupportedError, NotImplementedError) as error:
            raise UnsafeStoreError(
                f"{self.uri}: this store refuses a conditional put ({redact(error)}): "
                "use AWS S3, Ceph, MinIO, R2 or a directory"
            ) from None
        except (BaseError, BotoCoreError, OSError) as error:
            raise told(error, f"cannot {verb} {self.uri}/{path}") from None


def _read(inner: S3Store | LocalStore, path: str) -> bytes:
    return bytes(obstore.get(inner, path).bytes())


def _remove(inner: S3Store | LocalStore, paths: Sequence[str]) -> None:
    for path in paths:  # a directory would stop at the first one that is missing
        with suppress(FileNotFoundError):
            obstore.delete(inner, path)


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_ASKED = re.compile(r"Error performing \w+ (https?://)(?:[^/\s@]*@)?([^/\s?]+)")

# What the server or the system says, what it means, and whether it may pass.
_SIGNS: tuple[tuple[str, str, type[StoreError | ConfigurationError]], ...] = (
    ("NoSuchBucket", "the bucket does not exist: create it or mend its name", ConfigurationError),
    ("InvalidAccessKeyId", "the server does not know this access key", ConfigurationError),
    ("SignatureDoesNotMatch", "the secret access key is wrong", ConfigurationError),
    ("AccessDenied", "access denied: these credentials may not do this", ConfigurationError),
    ("Permission denied", "permission denied", ConfigurationError),
    ("dns error", "the host name of {server} cannot be resolved", StoreError),
    ("Connection refused", "connection refused by {server}", StoreError),
    ("No space left", "no space left", StoreError),
)


def told(error: Exception, doing: str) -> StoreError | ConfigurationError:
    """The telling part of a long chain of errors."""
    text = str(error)
    for sign, meaning, kind in _SIGNS:
        if sign in text:
            return kind(f"{doing}: {meaning.format(server=_server(text))}")
    return StoreError(f"{doing}: {redact(text.split('Debug source:')[0])}")


def _server(text: str) -> str:
    """Which one an error is about, and the variable that names it, where one does."""
    found = _ASKED.search(text)
    if found is None:
        return "the server"
    scheme, host = found.groups()
    variable = next((f" ({name})" for name in _ENDPOINTS if host in os.environ.get(name, "")), "")
    return f"{scheme}{host}{variable}"


def s3_store(
    bucket: str, prefix: str, session: boto3.Session, *, endpoint_url: str | None = None, verify: bool = True
) -> Store:
    """A prefix of a bucket, by a boto3 session.

    Raises:
        ConfigurationError: no credentials, or an endpoint that is no URL.
    """
    access = S3Access(session, endpoint_url=endpoint_url, verify=verify)
    prefix = prefix.strip("/")
    uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
    return Store(access.bucket(bucket, prefix), uri, access, access.bucket(bucket, prefix, _NO_RETRIES))


def directory_store(path: Path) -> Store:
    """A directory, made if it is missing.

    Raises:
        ConfigurationError: it cannot be made, or is a file.
    """
    path = path.expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"output {path}: {error.strerror}: name a directory that can be written"
        ) from None
    return Store(LocalStore(path, mkdir=True), str(path))


def is_block(output: str) -> bool:
    """Whether an output names a block saved in Prefect, which knows where it is: see ``blocks.output``."""
    return output.startswith((S3_BUCKET, LOCAL))


def open_store(output: str) -> Store:
    """A store by its name: ``s3://bucket/prefix`` (by boto3's own credential chain) or a directory.

    Raises:
        ConfigurationError: the name is neither, or no credentials are found.
    """
    if not output:
        raise ConfigurationError("output is empty: name a directory or s3://bucket/prefix")
    scheme, separator, rest = output.partition("://")
    if not separator:
        return directory_store(Path(output))
    if scheme != "s3":
        raise ConfigurationError(
            f"output {output}: {scheme}:// is not supported: name a directory or s3://bucket/prefix"
        )
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise ConfigurationError(f"output {output}: the bucket's name is missing: s3://bucket/prefix")
    try:
        session = boto3.Session()
    except BotoCoreError as error:
        raise ConfigurationError(f"output {output}: {redact(error)}") from None
    return s3_store(bucket, prefix, session)
