"""What a store moves bytes with: an obstore handle on a bucket or a directory."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import obstore
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import LocalStore, S3Store

from prefect_wavespeed.storage.scratch import scratch_error

PutMode = Literal["create", "overwrite"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Entry:
    """An object in a listing.

    Attributes:
        e_tag: only in a listing of sources, which are identified by it.
    """

    path: str
    last_modified: datetime
    size: int
    e_tag: str | None = None


class Backend(ABC):
    """Calls on one bucket's prefix or directory.

    Its methods raise what obstore, boto3 and the system raise: FileNotFoundError for a missing object,
    ``obstore.exceptions.AlreadyExistsError`` where one that was to be created exists.

    Attributes:
        lists_by_name: whether a listing is sorted.
        parts_at_once: how many parts of a file, of 5 MB each, are under way at a time.
        identity: endpoint and bucket (S3), or an empty string and the path (directory): what create-if-absent
            and the clock are properties of.
    """

    lists_by_name: ClassVar[bool]
    parts_at_once: ClassVar[int]

    def __init__(self, handle: S3Store | LocalStore, identity: tuple[str, str]) -> None:
        self.handle = handle
        self.identity = identity

    @property
    @abstractmethod
    def is_immediate(self) -> bool:
        """Whether calls are answered so quickly that making several at a time gains nothing."""

    @abstractmethod
    def attributes(self, content_type: str, metadata: Mapping[str, str]) -> Any:
        """What obstore is given with an object; None where the store keeps nothing but bytes."""

    @abstractmethod
    async def put(
        self, path: str, data: bytes, content_type: str, metadata: Mapping[str, str], mode: PutMode
    ) -> None:
        """Put an object by one request, never multipart."""

    async def put_file(self, path: str, file: Path, content_type: str) -> None:
        """Put a file of any size, over what exists; in several parts where it is big."""
        attributes = self.attributes(content_type, {})
        await obstore.put_async(
            self.handle, path, file, attributes=attributes, max_concurrency=self.parts_at_once
        )

    @abstractmethod
    async def get(self, path: str) -> bytes:
        """Read an object."""

    async def get_file(self, path: str, file: Path) -> None:
        """Read an object of any size into a file."""
        result = await obstore.get_async(self.handle, path)
        try:
            with file.open("wb") as target:
                async for chunk in result.stream():
                    await asyncio.to_thread(target.write, chunk)
        except OSError as error:
            raise scratch_error(error) from None

    async def head(self, path: str) -> Entry:
        """Look at an object without its bytes."""
        return entry(await obstore.head_async(self.handle, path))

    @abstractmethod
    async def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix."""

    async def folders(self, prefix: str) -> Sequence[str]:
        """The folders directly below a folder, each with its slash."""
        try:
            found = await obstore.list_with_delimiter_async(self.handle, prefix=prefix)
        except BaseError as error:
            if not is_for_a_key(error):
                raise
            paths = [each.path.removeprefix(prefix) for each in await self.list(prefix)]
            return sorted({f"{prefix}{path.partition('/')[0]}/" for path in paths if "/" in path})
        return [f"{path.rstrip('/')}/" for path in found["common_prefixes"]]

    async def pages(self, prefix: str, start: str) -> AsyncIterator[Sequence[Entry]]:
        """All objects below a prefix whose names there begin with ``start``, a page at a time."""
        beginning = prefix + start
        async for chunk in obstore.list(self.handle, prefix=prefix, offset=beginning if start else None):
            yield [entry(meta) for meta in chunk if meta["path"].startswith(beginning)]
            if start and self.lists_by_name and not chunk[-1]["path"].startswith(beginning):
                return

    @abstractmethod
    async def find(self, folder: str, wanted: Sequence[str]) -> Mapping[str, Sequence[Entry]]:
        """The objects at many paths below a folder."""

    async def page(self, folder: str, after: str) -> Sequence[Entry]:
        """A thousand objects below a folder that follow a path, or all that do; where listings are sorted."""
        raise NotImplementedError

    async def discard_if_empty(self) -> None:
        """Undo what opening it made, if nothing has been put there since."""
        return

    @abstractmethod
    async def delete(self, paths: Sequence[str], *, once: bool) -> None:
        """Remove objects; a missing one is no error."""


def entry(meta: obstore.ObjectMeta) -> Entry:
    """An object as obstore describes it."""
    return Entry(meta["path"], meta["last_modified"], meta["size"])


def is_for_a_key(error: BaseError) -> bool:
    """Whether obstore ends a listing because of a key that it has no path for, or that XML cannot express."""
    return isinstance(error, InvalidPathError) or "invalid list response" in str(error)


def is_plain(key: str) -> bool:
    """Whether obstore has a path for a key; others it refuses, or takes for another object's."""
    return {"", ".", ".."}.isdisjoint(key.split("/")) and _CONTROL.search(key) is None
