"""Make gallery.webp, gallery-sheet.webp, before-after.webp and home.webp in docs/images again:
``python -m docs.screenshots``.

A batch of examples/ through the engine and the emulator, its gallery.html in Chromium; one photograph beside
what is made of it; then this site's home. Look at what comes out. The pictures of Prefect's UI are made by
tests/e2e/test_ui.py.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.settings import Settings
from tests.support.batches import restyle_all
from tests.support.browser import Page, chromium
from tests.support.emulator_process import Emulator
from tests.support.s3_servers import moto_server

_ROOT = Path(__file__).resolve().parent.parent
_IMAGES = _ROOT / "docs" / "images"


async def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        await asyncio.to_thread(_before_after, Path(scratch) / "out")
        gallery = Path(scratch) / "gallery.html"
        gallery.write_bytes(await _gallery())
        async with chromium(Path(scratch) / "profile") as page:
            await _picture(page, gallery.as_uri(), "gallery", 1180, 850)
            await _picture(
                page, gallery.as_uri(), "gallery-sheet", 1180, 700, "$('size').value = 140; toggleSheet()"
            )
            site = Path(scratch) / "site"
            build = ["mkdocs", "build", "--no-strict", "--quiet", "--site-dir", str(site)]
            await asyncio.to_thread(subprocess.run, [sys.executable, "-m", *build], cwd=_ROOT, check=True)
            with _served(site) as url:
                await _picture(page, f"{url}/index.html", "home", 1280, 900)


def _before_after(out: Path) -> None:
    """What the tutorial's first command makes of one of the examples."""
    source = _ROOT / "examples" / "coffee.jpg"
    with Emulator("--latency", "0.1", "0.2") as emulator:
        asyncio.run(restyle_all(emulator.url, str(out), [str(source)], BatchOptions(), settings=Settings()))
    (made,) = out.glob("images/*/1.jpeg")
    with Image.open(source) as before, Image.open(made) as after:
        both = Image.new("RGB", (before.width + 8 + before.height, before.height), "white")
        both.paste(before, (0, 0))
        both.paste(after.resize((before.height, before.height)), (before.width + 8, 0))
    both.save(_IMAGES / "before-after.webp", quality=88, method=6)


async def _gallery() -> bytes:
    options = BatchOptions(params=ReduxParams(num_images=2, size="768*768"))
    with moto_server() as server, Emulator("--latency", "0.5", "1.5") as emulator:
        os.environ |= server.env
        client = server.client()
        for bucket in ("my-photos", "my-bucket"):
            client.create_bucket(Bucket=bucket)
        for photo in (_ROOT / "examples").glob("*.jpg"):
            client.upload_file(str(photo), "my-photos", f"in/{photo.name}")
        done = await restyle_all(
            emulator.url, "s3://my-bucket/restyled", "s3://my-photos/in/", options, settings=Settings()
        )
        made = await done.store.get(f"{done.folder}/gallery.html")
    if made is None:
        raise FileNotFoundError("gallery.html")
    return made


async def _picture(page: Page, url: str, name: str, width: int, height: int, script: str = "") -> None:
    await page.show(url, width=width, height=height)
    await page.ask(script)
    await page.until("[...document.images].every(image => image.complete && image.naturalWidth)")
    if page.errors:
        raise RuntimeError(f"{url}: {page.errors}")
    with tempfile.TemporaryDirectory() as folder:
        shot = await page.screenshot(Path(folder) / "shot.png")
        Image.open(shot).convert("RGB").save(_IMAGES / f"{name}.webp", quality=88, method=6)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    asyncio.run(main())
