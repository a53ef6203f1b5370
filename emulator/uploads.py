"""Uploaded files, kept for 7 days, and fetching the source of a request."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

import aiohttp

WEEK = 7 * 24 * 3600.0
UPLOAD_LIMIT = 20 * 1024 * 1024
"""Bytes; for media uploads and for sources."""

_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)
_CHUNK = 64 * 1024


class FetchError(Exception):
    """The image URL of a request cannot be fetched."""


@dataclass(slots=True)
class Upload:
    """A file; while ``data`` is None, a ticket for one."""

    id: str
    filename: str
    content_type: str
    size: int
    data: bytes | None = None
    created: float = field(default_factory=time.time)

    @property
    def path(self) -> str:
        """Path of its download URL."""
        return f"/cdn/uploads/{self.id}/{quote(self.filename, safe='')}"


class Uploads:
    """All uploads of the last 7 days, in memory."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._by_id: dict[str, Upload] = {}

    def add(self, filename: str, content_type: str, size: int, data: bytes | None = None) -> Upload:
        """Keep a file; without data, issue a ticket for it."""
        oldest = time.time() - WEEK
        while self._by_id and next(iter(self._by_id.values())).created < oldest:
            del self._by_id[next(iter(self._by_id))]
        name = filename.replace("\\", "/").rsplit("/", 1)[-1] or "upload"
        upload = Upload(uuid.uuid4().hex, name, content_type, size, data)
        self._by_id[upload.id] = upload
        return upload

    def get(self, upload_id: str) -> Upload | None:
        """Return an upload or ticket, unless it is too old."""
        upload = self._by_id.get(upload_id)
        return upload if upload is not None and upload.created >= time.time() - WEEK else None

    def url(self, upload: Upload) -> str:
        """Return the URL of the file, which needs no key."""
        return self._base_url + upload.path

    def reset(self) -> None:
        """Forget all uploads."""
        self._by_id.clear()

    def __len__(self) -> int:
        return sum(1 for upload in self._by_id.values() if upload.data is not None)

    async def fetch(self, url: str, session: aiohttp.ClientSession) -> bytes:
        """Fetch the source of a request; uploads come from memory.

        Raises:
            FetchError: it is not an http(s) URL, cannot be fetched within 15 seconds, is not answered with
                2xx, or is larger than 20 MB.
        """
        if url.startswith(f"{self._base_url}/cdn/uploads/"):
            upload = self.get(unquote(urlsplit(url).path).split("/")[3])
            if upload is None or upload.data is None:
                raise FetchError("HTTP 404")
            return upload.data
        if not url.lower().startswith(("http://", "https://")):
            raise FetchError("not an http or https URL")
        received = bytearray()
        try:
            async with session.get(url, timeout=_FETCH_TIMEOUT) as answer:
                if not 200 <= answer.status < 300:
                    raise FetchError(f"HTTP {answer.status}")
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    received += chunk
                    if len(received) > UPLOAD_LIMIT:
                        raise FetchError("the image is larger than 20 MB")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise FetchError(type(error).__name__) from None
        return bytes(received)
