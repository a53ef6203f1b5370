"""S3 in this process, as far as it is used: any key, and any answer."""

from __future__ import annotations

import re
import ssl
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
        etag: of every object.
        region: where the bucket is said to be.
        bucket_status: what a HEAD of the bucket gets.
        page: objects on a page of a listing.
        heads: keys that were looked at.
        written: what was put, by key.
        refusals: status and code of the answers to the next requests; status 0: as usual.
        requests: the headers of all requests so far.
    """

    url: str = ""
    keys: list[str] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    etag: str = '"0f"'
    region: str = "us-east-1"
    bucket_status: int = 200
    page: int = 1000
    heads: list[str] = field(default_factory=list)
    bucket: str = "photos"
    written: dict[str, bytes] = field(default_factory=dict)
    refusals: list[tuple[int, str]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)

    def reset(self) -> None:
        """Start again without objects."""
        vars(self).update(vars(PlainS3(url=self.url)))

    def store(self, prefix: str = "out", session: boto3.Session | None = None) -> Store:
        """A store on it, by default with keys that never expire."""
        session = session or boto3.Session("test", "test", region_name="us-east-1")
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
def plain_s3(context: ssl.SSLContext | None = None) -> Iterator[PlainS3]:
    """Serve on loopback; over TLS with a context."""
    s3 = PlainS3()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet
        disable_nagle_algorithm = True

        def handle_one_request(self) -> None:
            self.body = b""
            super().handle_one_request()

        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            s3.requests.append(dict(self.headers))
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not s3.refusals:
                return True
            status, code = s3.refusals.pop(0)
            if not status:
                return True
            self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())
            return False

        @property
        def key(self) -> str:
            return unquote(urlsplit(self.path).path).removeprefix(f"/{s3.bucket}").removeprefix("/")

        def do_PUT(self) -> None:
            if self.key in s3.written and self.headers.get("If-None-Match") == "*":
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            else:
                s3.written[self.key] = self.body
                self._answer(200, b"")

        def do_POST(self) -> None:  # DeleteObjects
            keys = re.findall(r"<Key>(.*?)</Key>", self.body.decode())
            for key in keys:
                s3.written.pop(key, None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

        def do_HEAD(self) -> None:
            key = self.key
            status = s3.bucket_status
            if key:
                s3.heads.append(key)
                status = s3.status.get(key, 200 if key in s3.keys or key in s3.written else 404)
            self._answer(status, b"x" if key else b"")

        def do_GET(self) -> None:
            if self.key:
                found = s3.written.get(self.key)
                self._answer(404 if found is None else 200, found or b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                self._answer(200, s3.listing(parse_qs(urlsplit(self.path).query)))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header(
                "Content-Length", str(len(body) if status == 200 or self.command != "HEAD" else 0)
            )
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.send_header("ETag", s3.etag)
            self.send_header("x-amz-bucket-region", s3.region)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        s3.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
        yield s3
        server.shutdown()
