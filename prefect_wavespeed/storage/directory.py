"""A directory as a store.

It is worked on at once: a call takes a tenth of a millisecond, a change of threads several times that. Where
calls turn out slow (a network's directory), they are made in a thread.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import LocalStore

from prefect_wavespeed.storage.backend import Backend, Entry, PutMode, entry, is_for_a_key, is_plain

_UNFINISHED = re.compile(r"#\d+$")  # what obstore is still writing, and does not list
_TRIES = 5  # to put an object into a folder that others empty and remove
_SLOW = 0.005  # seconds a call: from here on, other work should not have to wait for it

_P = ParamSpec("_P")
_T = TypeVar("_T")


class DirectoryBackend(Backend):
    """Calls on a directory; it has no content types and no metadata.

    Args:
        path: the directory, absolute; obstore makes what is missing below it.
        made: the uppermost folder on the way to it that was made for it.
    """

    lists_by_name = False
    parts_at_once = 1
    handle: LocalStore

    def __init__(self, path: Path, made: Path | None = None) -> None:
        super().__init__(LocalStore(path, mkdir=True), ("", str(path)))
        self._path = path
        self._made = made
        self._mean_seconds = 0.0  # of recent calls

    @property
    def is_immediate(self) -> bool:
        """True unless its calls have been slow lately."""
        return self._mean_seconds <= _SLOW

    def attributes(self, content_type: str, metadata: Mapping[str, str]) -> None:
        """None: obstore raises NotImplementedError for any on a directory."""

    async def put(
        self, path: str, data: bytes, content_type: str, metadata: Mapping[str, str], mode: PutMode
    ) -> None:
        """Put an object; obstore renames it into place, so it is never seen half-written."""
        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                await self._call(obstore.put, self.handle, path, data, mode=mode, use_multipart=False)
                return
            except GenericError:  # its folder was there, and was removed before it could be used
                if not tries_left:
                    raise

    async def get(self, path: str) -> bytes:
        """Read an object."""
        return await self._call(_read, self.handle, path)

    async def head(self, path: str) -> Entry:
        """Look at an object without its bytes."""
        return entry(await self._call(obstore.head, self.handle, path))

    async def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix."""
        try:
            found = await self._call(obstore.list(self.handle, prefix=prefix).collect)
        except BaseError as error:
            if not is_for_a_key(error):
                raise
            return await self._call(_plain_entries, self._path, prefix)
        return [entry(meta) for meta in found]

    async def pages(self, prefix: str, start: str) -> AsyncIterator[Sequence[Entry]]:
        """All objects below a prefix whose names there begin with ``start``, a page at a time."""
        listed: set[str] = set()
        try:
            async for page in super().pages(prefix, start):
                listed.update(found.path for found in page)
                yield page
        except BaseError as error:
            if not is_for_a_key(error):
                raise
            everything = await self._call(_plain_entries, self._path, prefix)
            yield [
                found
                for found in everything
                if found.path.startswith(prefix + start) and found.path not in listed
            ]

    async def find(self, folder: str, wanted: Sequence[str]) -> Mapping[str, Sequence[Entry]]:
        """The objects at many paths: a look at each takes some microseconds, and a listing is not sorted."""
        return await asyncio.to_thread(_find, self._path, folder, wanted)

    async def discard_if_empty(self) -> None:
        """Remove the directory, and what was made above it, unless somebody has put a file there."""
        if self._made:
            await asyncio.to_thread(_remove_folders, self._made)

    async def delete(self, paths: Sequence[str], *, once: bool) -> None:
        """Remove objects, and the folders that held nothing else."""
        await self._call(_remove, self.handle, self._path, paths)

    async def _call(self, call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        if self.is_immediate:
            return self._timed(call, *args, **options)
        return await asyncio.to_thread(lambda: self._timed(call, *args, **options))

    def _timed(self, call: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        start = time.perf_counter()
        try:
            return call(*args, **options)
        finally:
            self._mean_seconds += 0.1 * (time.perf_counter() - start - self._mean_seconds)


def _find(root: Path, folder: str, wanted: Sequence[str]) -> dict[str, list[Entry]]:
    try:
        with os.scandir(root / folder) as anything:
            if not any(anything):  # as what is open and what has failed mostly is
                return {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = ((path, _entries_at(root, path)) for path in wanted)
    return {path: entries for path, entries in found if entries}


def _entries_at(root: Path, path: str) -> list[Entry]:
    """The file at a path, or those directly in the folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if not path.endswith("/"):
            return [_entry(path, Path(root, path).stat())]
        with os.scandir(f"{root}/{path}") as files:
            names = [file for file in files if is_plain(file.name) and not _UNFINISHED.search(file.name)]
            return [_entry(path + file.name, file.stat()) for file in names if file.is_file()]
    return []


def _entry(path: str, found: os.stat_result) -> Entry:
    return Entry(path, datetime.fromtimestamp(found.st_mtime, UTC), found.st_size)


def _plain_entries(root: Path, prefix: str) -> list[Entry]:
    """What obstore would list, if somebody's file with an odd name did not stop it: no such file is ours."""
    entries = []
    for folder, _, names in os.walk(root / prefix):
        for name in names:
            file = Path(folder, name)
            path = file.relative_to(root).as_posix()
            if not is_plain(path) or _UNFINISHED.search(name):
                continue
            with suppress(OSError):  # removed meanwhile
                entries.append(_entry(path, file.stat()))
    return entries


def _remove_folders(root: Path) -> None:
    if any(files for _, _, files in os.walk(root)):
        return
    for folder, _, _ in os.walk(root, topdown=False):
        with suppress(OSError):  # not empty any more
            Path(folder).rmdir()


def _read(handle: LocalStore, path: str) -> bytes:
    return bytes(obstore.get(handle, path).bytes())


def _remove(handle: LocalStore, root: Path, paths: Sequence[str]) -> None:
    for path in paths:  # obstore would stop at the first one that is missing
        with suppress(FileNotFoundError):
            obstore.delete(handle, path)
    for folder in {path.rpartition("/")[0] for path in paths}:
        if "/" in folder:  # a job's, a run's; the few at the top stay
            with suppress(OSError):  # it holds more
                Path(root, folder).rmdir()
