"""What an output's storage really does, tested with small objects that are removed again."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_wavespeed.errors import (
    BucketNotFoundError,
    RestyleError,
    StoreDeniedError,
    StoreError,
    UnsafeStoreError,
)
from prefect_wavespeed.inspect.check_s3 import S3Checks
from prefect_wavespeed.inspect.checks import Check, error, ok, skipped, warning
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.errors import SAFE_STORES
from prefect_wavespeed.storage.store import Store

OUTPUT, CREATE = "output", "create-if-absent"

_SECONDS = 20.0  # for all of it
_CLEANUP_SECONDS = 10.0
_WRITERS = 8
_UNREACHABLE = (
    "check that the storage server is up and can be reached from here (AWS_ENDPOINT_URL_S3, network)"
)


async def check_store(store: Store) -> tuple[list[Check], timedelta | None]:
    """Write, read and remove a few small objects, and report what the store does.

    Returns:
        The checks; and how far the store's clock is ahead of this machine's, None where that is unknown.
    """
    probe = _Probe(store)
    try:
        async with asyncio.timeout(_SECONDS):
            await probe.run()
    except TimeoutError:
        probe.fail(error(OUTPUT, f"no answer within {_SECONDS:g} s: {store.uri}", _UNREACHABLE))
    except RestyleError as problem:
        probe.fail(_output_error(problem, store, probe.permission))
    finally:
        await probe.clean_up()
    return probe.checks, probe.skew


def check_directory(output: str) -> Check | None:
    """Check whether a directory that does not exist could be created; None for any other output."""
    path = Path(output).expanduser()
    if "://" in output or path.exists():
        return None
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return warning(OUTPUT, f"{path} does not exist", "nothing to do: the first run creates it")
    return error(OUTPUT, f"{path} cannot be created in {parent}", "choose a directory that can be written")


def storage_skipped(because: str) -> list[Check]:
    """The checks of an output that cannot be examined, because of another check."""
    return [skipped(name, f"{because}: see above") for name in (OUTPUT, CREATE)]


class _Probe:
    """One examination of a store.

    Attributes:
        checks: the results so far.
        skew: how far the store's clock is ahead of this machine's; None until it is known.
        permission: what S3 calls the permission for the operation in progress.
    """

    def __init__(self, store: Store) -> None:
        self.checks: list[Check] = []
        self.skew: timedelta | None = None
        self.permission = ""
        self._store = store
        self._folder = layout.probe(f"doctor-{uuid.uuid4().hex}")
        self._written: list[str] = []

    async def run(self) -> None:
        """Run all checks, those that do not depend on each other at the same time."""
        store = self._store
        self.permission = "s3:ListBucket"
        await store.list(self._folder)
        path, data = self._new_path("object"), uuid.uuid4().bytes
        self.permission = "s3:PutObject"
        before = datetime.now(UTC)
        conditional = await self._write_first(path, data)
        after = datetime.now(UTC)
        self.permission = "s3:GetObject"
        entry = await store.head(path)
        if entry is None or await store.get(path) != data:
            raise StoreError(f"what was just written cannot be read back: {store.uri_of(path)}")
        self.skew = _skew(entry, before, after)
        self.checks.append(ok(OUTPUT, f"{store.uri}: can be listed, written, read and removed"))
        self.permission = "s3:PutObject"
        checks: list[Awaitable[Check]] = [self._check_create(path, data, conditional)]
        if store.access:
            checks += S3Checks(store, store.access, self._new_path).start(path, data)
        self.checks += await asyncio.gather(*checks)

    def fail(self, problem: Check) -> None:
        """Report a problem with the output, and what could not be checked because of it."""
        self.checks = [problem, *(check for check in self.checks if check.name != OUTPUT)]
        if all(check.name != CREATE for check in self.checks):
            self.checks += storage_skipped(OUTPUT)[1:]

    async def clean_up(self) -> None:
        """Remove everything that was written; report it where that is not possible."""
        if not self._written:
            return
        try:
            async with asyncio.timeout(_CLEANUP_SECONDS):
                await self._store.delete(self._written)
        except (RestyleError, TimeoutError) as problem:
            reason = problem.message if isinstance(problem, RestyleError) else "no answer"
            remedy = f"allow s3:DeleteObject, and remove {self._store.uri_of(self._folder)}/"
            self.fail(error(OUTPUT, f"what was written cannot be removed: {reason}", remedy))
        if self._store.access is None:
            folder = Path(self._store.uri) / self._folder
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            with suppress(OSError):  # another probe is in it
                folder.parent.rmdir()

    def _new_path(self, name: str) -> str:
        """Return a path that will be removed."""
        path = f"{self._folder}/{name}"
        self._written.append(path)
        return path

    async def _write_first(self, path: str, data: bytes) -> bool:
        """Write the first object, and return whether the store knows conditional puts."""
        try:
            await self._store.create(path, data, "text/plain")
        except UnsafeStoreError:
            await self._store.put(path, data, "text/plain")
            return False
        except RestyleError as problem:
            if not problem.retryable:  # refused, so there is nothing to remove
                self._written.clear()
            raise
        return True

    async def _check_create(self, path: str, data: bytes, conditional: bool) -> Check:
        """Put an object that exists, then a new one several times at once: one put may win, and it stays."""
        if not conditional:
            return error(CREATE, "refused by this store (If-None-Match: *)", SAFE_STORES)
        again = await self._store.create(path, b"again", "text/plain")
        if again or await self._store.get(path) != data:
            found = "ignored (If-None-Match: *): a second put overwrites the first"
            return error(CREATE, f"{found}, so images could be billed twice", SAFE_STORES)
        race = self._new_path("race")
        won = await asyncio.gather(
            *(self._store.create(race, b"%d" % n, "text/plain") for n in range(_WRITERS))
        )
        if sum(won) > 1:
            found = f"works for successive puts, but {sum(won)} of {_WRITERS} simultaneous puts all won"
            return error(CREATE, f"{found}: images could be billed twice", SAFE_STORES)
        return ok(CREATE, f"works, also for {_WRITERS} simultaneous puts")


def _output_error(problem: RestyleError, store: Store, permission: str) -> Check:
    match problem:
        case StoreDeniedError() if store.access:
            remedy = f"allow {permission} to these credentials"
        case StoreDeniedError():
            remedy = "make the directory writable for this user"
        case BucketNotFoundError():
            remedy = "create the bucket, or name another one"
        case RestyleError(retryable=True):
            remedy = _UNREACHABLE
        case _:
            remedy = "fix what the message names"
    return error(OUTPUT, problem.message, remedy)


def _skew(entry: Entry, before: datetime, after: datetime) -> timedelta:
    """Return how far the store's clock is ahead, from an object's time; S3 reports whole seconds."""
    stamped = entry.last_modified
    if before.replace(microsecond=0) <= stamped <= after:
        return timedelta()
    return stamped - (after if stamped > after else before)
