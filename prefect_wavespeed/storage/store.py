"""What a store promises, be it a bucket's prefix or a directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import AlreadyExistsError

from prefect_wavespeed.errors import StoreError, UnsafeStoreError
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Backend, Entry
from prefect_wavespeed.storage.clock import StoreClock, clocks
from prefect_wavespeed.storage.errors import SAFE_STORES, translated
from prefect_wavespeed.storage.removals import Removals

if TYPE_CHECKING:
    from prefect_wavespeed.storage.s3 import S3Access

_NAMED = 3  # objects that an error names


class Store:
    """A bucket's prefix or a directory. Objects are only ever added, each by one create-if-absent put.

    Every method raises StoreError when the store cannot be read or written now, and ConfigurationError where
    trying again will not help.

    Args:
        backend: moves the bytes.
        uri: ``s3://bucket/prefix`` or the directory's path; an object's uri is ``{uri}/{path}``.
        access: the S3 server it is on; None for a directory.

    Attributes:
        removals: of what nobody needs any more.
    """

    def __init__(self, backend: Backend, uri: str, access: S3Access | None = None) -> None:
        self._backend = backend
        self._probing = asyncio.Lock()
        self.removals = Removals(self.delete)
        self.uri = uri
        self.access = access

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def is_immediate(self) -> bool:
        """Whether calls are answered so quickly that making several at a time gains nothing."""
        return self._backend.is_immediate

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, which may be on a disk that is not mounted."""
        return self.access is None

    @cached_property
    def source_access(self) -> S3Access:
        """The server on which ``s3://`` sources and manifests are: this store's, else the environment's.

        Raises:
            ConfigurationError: the environment's cannot be used.
        """
        from prefect_wavespeed.storage.s3 import (
            environment_access,  # boto3, which a directory needs for these alone
        )

        return self.access or environment_access()

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
        """Put an object if none exists: one request, never multipart.

        Returns:
            True when it was written, False when one existed. A put that is sent again after its answer was
            lost meets itself and returns False: compare what exists.
        """
        with translated("write", self.uri_of(path)):
            try:
                await self._backend.put(path, data, content_type, metadata or {}, "create")
            except AlreadyExistsError:
                return False
        return True

    async def put(
        self, path: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Put an object, over what exists."""
        with translated("write", self.uri_of(path)):
            await self._backend.put(path, data, content_type, metadata or {}, "overwrite")

    async def put_file(self, path: str, file: Path, content_type: str) -> None:
        """Put a file of any size, over what exists; in several parts where it is big."""
        with translated("write", self.uri_of(path)):
            await self._backend.put_file(path, file, content_type)

    async def get(self, path: str) -> bytes | None:
        """The object's bytes; None when there is no object."""
        with translated("read", self.uri_of(path)):
            try:
                return await self._backend.get(path)
            except FileNotFoundError:
                return None

    async def get_file(self, path: str, file: Path) -> bool:
        """Read an object of any size into a file; False when there is none."""
        with translated("read", self.uri_of(path)):
            try:
                await self._backend.get_file(path, file)
            except FileNotFoundError:
                return False
        return True

    async def head(self, path: str) -> Entry | None:
        """What a listing would say of one object; None when there is none."""
        with translated("read", self.uri_of(path)):
            try:
                return await self._backend.head(path)
            except FileNotFoundError:
                return None

    async def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix."""
        with translated("list", self.uri_of(prefix)):
            return await self._backend.list(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        """The folders directly below a folder, each with its slash, without listing what is in them."""
        with translated("list", self.uri_of(prefix)):
            return await self._backend.folders(prefix)

    async def pages(self, prefix: str, start: str = "") -> AsyncIterator[Sequence[Entry]]:
        """All objects below a prefix, however many, a page of the listing at a time.

        Args:
            prefix: a folder, with its slash.
            start: only objects whose names in the folder begin like this; S3 is not asked for others.
        """
        with translated("list", self.uri_of(prefix + start)):
            async for page in self._backend.pages(prefix, start):
                yield page

    async def find(self, folder: str, wanted: Sequence[str]) -> Mapping[str, Sequence[Entry]]:
        """Find objects by one listing for all: no more requests than paths, and no more than pages.

        Args:
            folder: all of them are below it.
            wanted: paths of objects, or of folders with their slash; sorted, and none begins like another.

        Returns:
            By path the object, or the objects in the folder; paths without any are left out.
        """
        with translated("list", self.uri_of(folder)):
            return await self._backend.find(folder, wanted)

    @property
    def sorts_listings(self) -> bool:
        """Whether ``page`` can be asked for."""
        return self._backend.lists_by_name

    async def page(self, folder: str, after: str) -> Sequence[Entry]:
        """A page of a sorted listing, by one request.

        Args:
            folder: with its slash.
            after: a path, whether or not there is an object.

        Returns:
            The thousand objects below the folder that follow; fewer if these are all.
        """
        with translated("list", self.uri_of(folder)):
            return await self._backend.page(folder, after)

    async def is_marked(self) -> bool:
        """Whether the marker of a directory that was used is there; True for a bucket, which has none."""
        return not self.is_directory or await self.head(layout.MARKER) is not None

    async def mark(self) -> None:
        """Mark a directory as used."""
        if self.is_directory:
            await self.create(layout.MARKER, layout.MARKER_TEXT, "text/plain")

    async def discard_if_empty(self) -> None:
        """Remove a directory that was made when this was opened, if there is nothing in it."""
        await self._backend.discard_if_empty()

    async def delete(self, paths: Iterable[str], *, once: bool = False) -> None:
        """Remove objects; a missing one is no error.

        Args:
            paths: the objects.
            once: send the request once, even if its answer is lost.
        """
        removed = list(paths)
        more = " …" if len(removed) > _NAMED else ""
        with translated("delete", self.uri_of(", ".join(removed[:_NAMED]) + more)):
            await self._backend.delete(removed, once=once)

    async def ensure_conditional_put(self) -> None:
        """Make sure that create-if-absent holds here, and read the store's clock.

        Tried once a process for each endpoint and bucket (or directory), with an object that is then removed.

        Raises:
            UnsafeStoreError: the store lets a second create overwrite the first.
        """
        if self._backend.identity in clocks:
            return
        async with self._probing:
            if self._backend.identity not in clocks:
                clocks[self._backend.identity] = await self._probe()

    def now(self) -> datetime:
        """The time by the store's clock, never ahead of it; only after ``ensure_conditional_put``."""
        return clocks[self._backend.identity].now()

    async def _probe(self) -> StoreClock:
        probe = layout.probe()
        await self.create(probe, b"1", "text/plain")
        overwritten = await self.create(probe, b"2", "text/plain")
        entry = await self.head(probe)
        read_at = time.monotonic()
        await self.delete([probe])
        if overwritten:
            raise UnsafeStoreError(
                f"create-if-absent (If-None-Match: *) is ignored: output {self.uri}: two runs could both "
                f"bill one image: {SAFE_STORES}"
            )
        if entry is None:
            raise StoreError(f"missing right after it was written: {self.uri_of(probe)}")
        return StoreClock(entry.last_modified, read_at)
