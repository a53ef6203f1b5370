"""What only S3 servers have: presigned URLs, checksums of puts, notifications."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from prefect_wavespeed.errors import redact
from prefect_wavespeed.inspect.checks import Check, ok, warning
from prefect_wavespeed.storage.s3 import S3Access
from prefect_wavespeed.storage.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PRESIGN, CHECKSUMS, NOTIFICATIONS = "presigned GET", "checksums", "notifications"

_SECONDS = 5  # for each call
_ON_SCHEDULE = "restyle new objects on a schedule instead of on events"


class S3Checks:
    """The checks of one output.

    Args:
        store: the output.
        access: to its server.
        new_path: returns a path below which a check may write; it is removed at the end.
    """

    def __init__(self, store: Store, access: S3Access, new_path: Callable[[str], str]) -> None:
        self._access = access
        self._new_path = new_path
        self._client = _impatient_client(access)
        self._bucket, _, self._prefix = store.uri.removeprefix("s3://").partition("/")

    def start(self, path: str, data: bytes) -> list[Awaitable[Check]]:
        """Return all checks, to be awaited; ``data`` is what an object at ``path`` contains."""
        return [
            self._check_presigned(path, data),
            asyncio.to_thread(self._check_checksums),
            asyncio.to_thread(self._check_notifications),
        ]

    async def _check_presigned(self, path: str, data: bytes) -> Check:
        """Whether a signed URL alone gets the object. The URL is never shown."""
        try:
            bucket = self._access.bucket(self._bucket, self._prefix)
            url = await obstore.sign_async(bucket, "GET", path, timedelta(minutes=1))
            async with httpx.AsyncClient(verify=self._access.verify, timeout=_SECONDS) as client:
                answer = await client.get(str(url))
        except Exception as problem:  # its text may contain the URL
            return self._presigned_failed(type(problem).__name__)
        if answer.status_code != 200 or answer.content != data:
            return self._presigned_failed(f"HTTP {answer.status_code}")
        return ok(PRESIGN, "works")

    def _presigned_failed(self, reason: str) -> Check:
        remedy = (
            "WaveSpeedAI fetches s3:// sources with it: allow s3:GetObject from any address"
            if self._access.is_aws
            else "nothing to do: s3:// sources on this server are uploaded to WaveSpeedAI"
        )
        return warning(PRESIGN, f"does not work from here ({reason})", remedy)

    def _check_checksums(self) -> Check:
        """Whether a put with a wrong checksum is refused."""
        md5 = hashlib.md5(b"other").digest()  # noqa: S324
        sha256 = hashlib.sha256(b"other").digest()
        wrong: dict[str, dict[str, Any]] = {
            "Content-MD5": {"ContentMD5": base64.b64encode(md5).decode()},
            "x-amz-checksum-sha256": {"ChecksumSHA256": base64.b64encode(sha256).decode()},
        }
        verified = [name for name, header in wrong.items() if self._refuses(name, header)]
        if not verified:
            remedy = "nothing to do: pictures are verified by the SHA-256 in their side-cars"
            return warning(CHECKSUMS, "not verified: a damaged put would be stored", remedy)
        ignored = [name for name in wrong if name not in verified]
        more = f"; {ignored[0]} is not" if ignored else ""
        return ok(CHECKSUMS, f"a damaged put is refused: {' and '.join(verified)} verified{more}")

    def _refuses(self, name: str, header: dict[str, Any]) -> bool:
        path = self._new_path(name)
        key = f"{self._prefix}/{path}" if self._prefix else path
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=b"data", **header)
        except ClientError as problem:
            return problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 400
        except BotoCoreError:
            pass
        return False

    def _check_notifications(self) -> Check:
        """Whether the bucket's notifications can be read; nothing is changed."""
        try:
            configured = self._client.get_bucket_notification_configuration(Bucket=self._bucket)
        except ClientError as problem:
            code = str(problem.response.get("Error", {}).get("Code", ""))
            if code in ("AccessDenied", "403"):
                return warning(
                    NOTIFICATIONS,
                    "may not be read with these credentials",
                    "nothing to do, unless bucket events are wanted: then allow s3:GetBucketNotification and "
                    "s3:PutBucketNotification to the identity that sets them up",
                )
            return warning(NOTIFICATIONS, f"this server has none ({redact(code)})", _ON_SCHEDULE)
        except BotoCoreError as problem:
            return warning(NOTIFICATIONS, f"could not be read: {redact(problem)}", _ON_SCHEDULE)
        count = sum(len(part) for part in configured.values() if isinstance(part, list))
        count += "EventBridgeConfiguration" in configured
        return ok(NOTIFICATIONS, f"can be set up; {count or 'none'} in the bucket now")


def _impatient_client(access: S3Access) -> S3Client:
    return access.session.client(
        "s3",
        endpoint_url=access.endpoint_url,
        region_name=access.region,
        verify=None if access.verify else False,  # None lets boto3 read AWS_CA_BUNDLE
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
            retries={"total_max_attempts": 2},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
