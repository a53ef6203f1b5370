"""What an output's storage really does, found out by doing it below a prefix that is removed again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from prefect_wavespeed.errors import (
    BucketNotFoundError,
    RestyleError,
    StoreDeniedError,
    StoreError,
    UnsafeStoreError,
    redact,
)
from prefect_wavespeed.inspect.checks import Check, error, ok, skipped, warning
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.s3 import S3Access
from prefect_wavespeed.storage.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OUTPUT, CREATE, PRESIGN, CHECKSUMS, NOTIFICATIONS = (
    "output",
    "create-if-absent",
    "presigned GET",
    "checksums",
    "notifications",
)

_SECONDS = 20.0  # for all of it: a store that needs longer is away
_CLEANING_SECONDS = 10.0
_RACERS = 8
_ELSEWHERE = "use AWS S3, Ceph, MinIO, R2 or a directory"
_NOBODY = "nothing to do: pictures are checked by the SHA-256 in their side-cars"
_SCHEDULE = "restyle new objects by schedule instead of by event"


async def check_store(store: Store) -> tuple[list[Check], timedelta | None]:
    """Write, read and remove a few small objects, and see what the store makes of it.

    Returns:
        The checks; and how far the store's clock is ahead of this machine's, None where that is not known.
    """
    probe = _Probe(store)
    try:
        async with asyncio.timeout(_SECONDS):
            await probe.run()
    except TimeoutError:
        probe.stop(error(OUTPUT, f"{store.uri}: no answer within {_SECONDS:g} s", _AWAY))
    except RestyleError as problem:
        probe.stop(_output_error(problem, probe.needs))
    finally:
        await probe.clean()
    return probe.checks, probe.skew


def check_directory(output: str) -> Check | None:
    """A directory that is not there yet: whether it could be made. None for any other output."""
    path = Path(output).expanduser()
    if "://" in output or path.exists():
        return None
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return warning(OUTPUT, f"{path} does not exist", "nothing to do: the first run makes it")
    return error(OUTPUT, f"{path} cannot be made in {parent}", "name a directory that can be written")


def storage_skipped(because: str) -> list[Check]:
    """What to tell where the output cannot be looked at; ``because`` of another check."""
    return [skipped(name, f"{because}: see above") for name in (OUTPUT, CREATE)]


_AWAY = "see whether the storage server is up and can be reached from here (AWS_ENDPOINT_URL_S3, network)"


@dataclass
class _Probe:
    """One look at a store.

    Attributes:
        needs: what S3 calls the right to do what is being done.
    """

    store: Store
    checks: list[Check] = field(default_factory=list)
    skew: timedelta | None = None
    needs: str = ""
    _folder: str = field(default_factory=lambda: f".probe/doctor-{uuid.uuid4().hex}")
    _written: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Make all checks, the ones that do not depend on each other side by side."""
        self.needs = "s3:ListBucket"
        await self.store.list(self._folder)
        path, data = self._path("object"), uuid.uuid4().bytes
        self.needs = "s3:PutObject"
        before = datetime.now(UTC)
        first = await self._created(path, data)
        after = datetime.now(UTC)
        self.needs = "s3:GetObject"
        entry = await self.store.head(path)
        if entry is None or await self.store.get(path) != data:
            raise StoreError(f"{self.store.uri_of(path)}: what was just written cannot be read back")
        self.skew = _skew(entry, before, after)
        self.checks.append(ok(OUTPUT, f"{self.store.uri}: can be listed, written, read and removed"))
        self.needs = "s3:PutObject"
        access = self.store.access
        checks = [self._conditional(path, data, first)]
        if access:
            client = _client(access)
            checks += [
                self._presigned(access, path, data),
                asyncio.to_thread(self._checksums, client),
                asyncio.to_thread(self._notifications, client),
            ]
        self.checks += await asyncio.gather(*checks)

    def stop(self, problem: Check) -> None:
        """Tell what went wrong, and what was not checked because of it."""
        self.checks = [problem, *(check for check in self.checks if check.name != OUTPUT)]
        if all(check.name != CREATE for check in self.checks):
            self.checks += storage_skipped(OUTPUT)[1:]

    async def clean(self) -> None:
        """Remove all that was written, and say so where that is not possible."""
        if not self._written:
            return
        try:
            async with asyncio.timeout(_CLEANING_SECONDS):
                await self.store.delete(self._written)
        except (RestyleError, TimeoutError) as problem:
            told = problem.message if isinstance(problem, RestyleError) else "no answer"
            remedy = f"allow s3:DeleteObject, and remove {self.store.uri_of(self._folder)}/"
            self.stop(error(OUTPUT, f"what was written cannot be removed: {told}", remedy))
        if self.store.access is None:
            folder = Path(self.store.uri) / self._folder
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            with suppress(OSError):  # somebody else's probe is in it
                folder.parent.rmdir()

    # -- create-if-absent -----------------------------------------------------------------------

    async def _created(self, path: str, data: bytes) -> bool:
        """Write the first object, conditionally where the store knows how to. Whether it does."""
        self._written.append(path)
        try:
            await self.store.create(path, data, "text/plain")
        except UnsafeStoreError:
            await self.store.put(path, data, "text/plain")
            return False
        except RestyleError as problem:
            if not problem.retryable:  # refused, so nothing is there to be removed
                self._written.clear()
            raise
        return True

    async def _conditional(self, path: str, data: bytes, known: bool) -> Check:
        """Two puts one after the other, then several at once: one may win, and what it wrote stays."""
        if not known:
            return error(CREATE, "refused by this store (If-None-Match: *)", _ELSEWHERE)
        again = await self.store.create(path, b"again", "text/plain")
        if again or await self.store.get(path) != data:
            found = "ignored (If-None-Match: *): a second put overwrites the first"
            return error(CREATE, f"{found}, so images could be billed twice", _ELSEWHERE)
        race = self._path("race")
        self._written.append(race)
        won = await asyncio.gather(
            *(self.store.create(race, b"%d" % n, "text/plain") for n in range(_RACERS))
        )
        if sum(won) > 1:
            found = f"kept one after the other, but {sum(won)} of {_RACERS} writers at once all won"
            return error(CREATE, f"{found}: images could be billed twice", _ELSEWHERE)
        return ok(CREATE, f"holds, also among {_RACERS} writers at once")

    # -- what only S3 has -----------------------------------------------------------------------

    async def _presigned(self, access: S3Access, path: str, data: bytes) -> Check:
        """Whether whoever has a signed URL, and nothing else, gets the object. The URL is shown to nobody."""
        bucket, prefix = _located(self.store)
        try:
            url = await obstore.sign_async(access.bucket(bucket, prefix), "GET", path, timedelta(minutes=1))
            async with httpx.AsyncClient(verify=access.verify, timeout=5) as client:
                answer = await client.get(str(url))
        except Exception as problem:  # it may hold the URL, so only its kind is told
            return _no_presigning(access, type(problem).__name__)
        if answer.status_code != 200 or answer.content != data:
            return _no_presigning(access, f"HTTP {answer.status_code}")
        return ok(PRESIGN, "works")

    def _checksums(self, client: S3Client) -> Check:
        """Whether a put whose checksum is wrong is refused."""
        wrong: dict[str, dict[str, Any]] = {
            "Content-MD5": {"ContentMD5": base64.b64encode(hashlib.md5(b"other").digest()).decode()},  # noqa: S324
            "x-amz-checksum-sha256": {
                "ChecksumSHA256": base64.b64encode(hashlib.sha256(b"other").digest()).decode()
            },
        }
        checked = [name for name, header in wrong.items() if self._refuses(client, name, header)]
        if not checked:
            return warning(CHECKSUMS, "not checked: a damaged put would be stored", _NOBODY)
        ignored = [name for name in wrong if name not in checked]
        more = f"; {ignored[0]} is not" if ignored else ""
        return ok(CHECKSUMS, f"a damaged put is refused: {' and '.join(checked)} checked{more}")

    def _refuses(self, client: S3Client, name: str, header: dict[str, Any]) -> bool:
        bucket, prefix = _located(self.store)
        path = self._path(name)
        self._written.append(path)
        key = f"{prefix}/{path}" if prefix else path
        try:
            client.put_object(Bucket=bucket, Key=key, Body=b"data", **header)
        except ClientError as problem:
            return problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 400
        except BotoCoreError:
            pass
        return False

    def _notifications(self, client: S3Client) -> Check:
        """What the bucket tells of new objects; read only."""
        bucket, _ = _located(self.store)
        try:
            there = client.get_bucket_notification_configuration(Bucket=bucket)
        except ClientError as problem:
            code = str(problem.response.get("Error", {}).get("Code", ""))
            if code in ("AccessDenied", "403"):
                return warning(
                    NOTIFICATIONS,
                    "may not be read with these credentials",
                    "nothing to do, unless bucket events are wanted: then allow s3:GetBucketNotification and "
                    "s3:PutBucketNotification to whoever sets them up",
                )
            return warning(NOTIFICATIONS, f"this server has none ({redact(code)})", _SCHEDULE)
        except BotoCoreError as problem:
            return warning(NOTIFICATIONS, f"could not be read: {redact(problem)}", _SCHEDULE)
        count = sum(len(part) for part in there.values() if isinstance(part, list))
        count += "EventBridgeConfiguration" in there
        return ok(NOTIFICATIONS, f"can be set up; {count or 'none'} in the bucket now")

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"


def _output_error(problem: RestyleError, needs: str) -> Check:
    """Why the store cannot be used, and what to do about it."""
    if isinstance(problem, StoreDeniedError):
        on_s3 = "s3://" in problem.message
        remedy = (
            f"allow {needs} to these credentials" if on_s3 else "make the directory writable for this user"
        )
    elif isinstance(problem, BucketNotFoundError):
        remedy = "create the bucket, or name another one"
    elif problem.retryable:
        remedy = _AWAY
    else:
        remedy = "mend what is named"
    return error(OUTPUT, problem.message, remedy)


def _no_presigning(access: S3Access, why: str) -> Check:
    remedy = (
        "WaveSpeedAI fetches s3:// sources by it: see that s3:GetObject is allowed from any address"
        if access.is_aws
        else "nothing to do: s3:// sources on this server are uploaded to WaveSpeedAI"
    )
    return warning(PRESIGN, f"does not work from here ({why})", remedy)


def _skew(entry: Entry, before: datetime, after: datetime) -> timedelta:
    """How far the clock that stamped the object is ahead; S3 tells whole seconds."""
    stamped = entry.last_modified
    if before.replace(microsecond=0) <= stamped <= after:
        return timedelta()
    return stamped - (after if stamped > after else before)


def _located(store: Store) -> tuple[str, str]:
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def _client(access: S3Access) -> S3Client:
    """boto3's client for what is not bytes, impatient."""
    return access.session.client(
        "s3",
        endpoint_url=access.endpoint_url,
        region_name=access.region,
        verify=access.verify,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=5,
            retries={"total_max_attempts": 2},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
