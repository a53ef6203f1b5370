"""S3 and SQS on loopback: moto in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class S3Server:
    """The address of an S3 server, and a bucket on it."""

    endpoint: str
    bucket: str = "restyle"
    access_key: str = "test"
    secret_key: str = field(default="test", repr=False)
    region: str = "us-east-1"

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which ``s3://`` means this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def session(self) -> boto3.Session:
        """A boto3 session with its credentials, without its endpoint."""
        return boto3.Session(
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )

    def client(self) -> S3Client:
        """A boto3 client for it."""
        return self.session().client("s3", endpoint_url=self.endpoint)

    def queues(self) -> SQSClient:
        """A boto3 client for its queues; only moto has any."""
        return self.session().client("sqs", endpoint_url=self.endpoint)


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """Run moto with an empty bucket."""
    command = [sys.executable, "-m", "tests.support.s3_servers"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdin
        server = S3Server(process.stdout.readline().strip())
        server.client().create_bucket(Bucket=server.bucket)
        try:
            yield server
        finally:
            process.stdin.close()


def serve_moto() -> None:
    """Serve S3 and SQS until standard input closes, which it also does when the parent process is killed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def answer(environ: Any, body: bytes) -> tuple[tuple[Any, ...], list[bytes]]:
        heads: list[tuple[Any, ...]] = []
        request = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        # moto looks whether an object exists, and then puts it: on S3 the two are one step.
        with one_at_a_time:
            chunks = list(moto(request, lambda *head: heads.append(head)))
        return heads[0], chunks

    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        wait = 0.0
        if environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.ReceiveMessage":  # waits here: moto would block
            query = json.loads(body)
            wait = query.pop("WaitTimeSeconds", 0)
            body = json.dumps(query).encode()
        deadline = time.monotonic() + wait
        head, chunks = answer(environ, body)
        while wait and b"".join(chunks) == b"{}" and time.monotonic() < deadline:
            time.sleep(0.05)
            head, chunks = answer(environ, body)
        start_response(*head)
        return chunks

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve_moto()
