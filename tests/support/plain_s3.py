"""S3 as far as it lists and looks at objects, in this process: any key, and any answer to a HEAD."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import boto3

from prefect_wavespeed.storage.open_store import directory_store, s3_store
from prefect_wavespeed.storage.store import Store

_OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;0f&quot;</ETag><Size>{size}</Size></Contents>"
)


@dataclass
class PlainS3:
    """A server with one bucket.

    Attributes:
        keys: its objects; a HEAD of any is answered.
        status: by key, what a HEAD gets instead of 200.
        region: where the bucket is said to be.
        bucket_status: what a HEAD of the bucket gets.
        page: objects on a page of a listing.
        heads: keys that were looked at.
    """

    url: str = ""
    keys: list[str] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    region: str = "us-east-1"
    bucket_status: int = 200
    page: int = 1000
    heads: list[str] = field(default_factory=list)
    bucket: str = "photos"

    def reset(self) -> None:
        """Start again without objects."""
        vars(self).update(vars(PlainS3(url=self.url)))

    def store(self, prefix: str = "out") -> Store:
        """A store on it."""
        session = boto3.Session("test", "test", region_name="us-east-1")
        return s3_store(self.bucket, prefix, session, endpoint_url=self.url)

    def read_by(self, directory: Path) -> Store:
        """An output in a directory, whose sources are on this server."""
        output = directory_store(directory)
        output.access = self.store().access
        return output

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which ``s3://`` means this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def listing(self, query: dict[str, list[str]]) -> bytes:
        """A page of ListObjectsV2."""
        prefix = query.get("prefix", [""])[0]
        after = bytes.fromhex(query.get("continuation-token", [""])[0]).decode()
        after = after or query.get("start-after", [""])[0]
        found = sorted(key for key in set(self.keys) if key.startswith(prefix) and key > after)
        shown = found[: self.page]
        encoded = query.get("encoding-type") == ["url"]
        objects = "".join(
            _OBJECT.format(key=quote(key, safe="/") if encoded else _escaped(key), size=1) for key in shown
        )
        more = len(found) > len(shown)
        token = f"<NextContinuationToken>{shown[-1].encode().hex()}</NextContinuationToken>" if more else ""
        return (
            "<ListBucketResult>"
            f"{'<EncodingType>url</EncodingType>' if encoded else ''}<KeyCount>{len(shown)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{objects}</ListBucketResult>"
        ).encode()


def _escaped(text: str) -> str:
    return "".join(f"&#{ord(char)};" if char < " " or char in "&<>" else char for char in text)


@contextmanager
def plain_s3() -> Iterator[PlainS3]:
    """Serve on loopback."""
    s3 = PlainS3()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            key = unquote(urlsplit(self.path).path).removeprefix(f"/{s3.bucket}").removeprefix("/")
            status = s3.bucket_status
            if key:
                s3.heads.append(key)
                status = s3.status.get(key, 200 if key in s3.keys else 404)
            self._answer(status, b"x" if key else b"")

        def do_GET(self) -> None:
            self._answer(200, s3.listing(parse_qs(urlsplit(self.path).query)))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if status == 200 else 0))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("ETag", '"0f"')
            self.send_header("x-amz-bucket-region", s3.region)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        s3.url = f"http://127.0.0.1:{server.server_port}"
        yield s3
        server.shutdown()
