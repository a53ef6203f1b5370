"""A client of the emulator for its own tests, and a web server for sources and webhooks."""

from __future__ import annotations

import hashlib
import hmac
import io
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ASTRONAUT = (EXAMPLES / "astronaut.jpg").read_bytes()
MODEL = "wavespeed-ai/flux-redux-dev"
SMALL = {"size": "256*256", "seed": 7}


class Api:
    """Makes calls as a client does."""

    def __init__(self, url: str, key: str = "test-key") -> None:
        # without certificates, which take long to load: everything is plain http
        self.url = url
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=10,
            verify=False,
        )
        self.cdn = httpx.Client(trust_env=False, timeout=10, verify=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        """POST JSON."""
        return self.http.post(path, json=body)

    def upload(self, data: bytes = ASTRONAUT) -> str:
        """Upload a file, and return its URL."""
        answer = self.http.post(
            "/api/v3/media/upload/binary", files={"file": ("a b.jpg", data, "image/jpeg")}
        )
        url: str = data_of(answer)["download_url"]
        return url

    def submit(self, webhook: str | None = None, **fields: Any) -> httpx.Response:
        """Submit a small picture with these fields."""
        query = {"webhook": webhook} if webhook else {}
        return self.http.post(f"/api/v3/{MODEL}", json={**SMALL, **fields}, params=query)

    def result(self, prediction_id: str) -> dict[str, Any]:
        """Return a prediction."""
        prediction: dict[str, Any] = data_of(self.http.get(f"/api/v3/predictions/{prediction_id}/result"))
        return prediction

    def wait(self, prediction_id: str) -> dict[str, Any]:
        """Return a prediction once it has ended."""
        for _ in range(500):
            prediction = self.result(prediction_id)
            if prediction["status"] not in ("created", "processing"):
                return prediction
            time.sleep(0.02)
        raise AssertionError("not finished")

    def run(self, **fields: Any) -> dict[str, Any]:
        """Submit, and return the prediction once it has ended."""
        fields.setdefault("image", self.upload())
        return self.wait(data_of(self.submit(**fields))["id"])

    def history(self, **filters: Any) -> list[dict[str, Any]]:
        """Return the first 100 items of the history."""
        items: list[dict[str, Any]] = data_of(
            self.post("/api/v3/predictions", {"page": 1, "page_size": 100, **filters})
        )["items"]
        return items

    def close(self) -> None:
        """Close its connections."""
        self.http.close()
        self.cdn.close()


def data_of(answer: httpx.Response) -> Any:
    """Return the data of a successful answer."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["code"] == 200
    return body["data"]


def opened(data: bytes) -> Image.Image:
    """Decode a picture."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


class Web:
    """A web server on loopback that serves files and keeps what is POSTed to it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: list[int] = []
        self.posts: list[tuple[dict[str, str], bytes]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = web.files.get(self.path.split("?")[0])
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(web.answers.pop(0) if web.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        """Stop it."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def signed_with(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether a webhook was signed with the secret."""
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = secret.removeprefix("whsec_").encode()
    return headers["webhook-signature"] == "v3," + hmac.new(key, text, hashlib.sha256).hexdigest()
