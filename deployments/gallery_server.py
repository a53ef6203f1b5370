"""A run's gallery on this machine: the page and the pictures of that run, those on S3 by presigned links.

The address has a secret in it, so that no other user of this machine and no page from elsewhere can guess it;
and a request that names another host, as after DNS rebinding, is refused.
"""

from __future__ import annotations

import mimetypes
import secrets
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prefect_wavespeed.batch.report.rows import ReportRow, decode_rows
from prefect_wavespeed.deployments.serving import Server, listen
from prefect_wavespeed.errors import ConfigurationError, RestyleError
from prefect_wavespeed.sources.publish import presigned
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.scratch import scratch_folder
from prefect_wavespeed.storage.store import Store

HOST = "127.0.0.1"
_SHUTDOWN_SECONDS = 1
_KEPT = {"Cache-Control": "private, max-age=1800"}  # half as long as a link is valid
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SANDBOXED = {
    **_HEADERS,
    "Content-Security-Policy": "sandbox; default-src 'none'",
}  # a file is no page of ours


async def serve_gallery(store: Store, folder: str, stdout: IO[str]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        store: the output.
        folder: of the run's report in it.
        stdout: where the address is printed.

    Raises:
        ConfigurationError: the run has no gallery.
        StoreError: the store cannot be read.
    """
    with scratch_folder() as scratch:
        gallery = await Gallery.read(store, folder, scratch)
        said = f"{{url}}{gallery.root}/"
        server = Server(gallery.app(), shutdown_seconds=_SHUTDOWN_SECONDS, said=said, stdout=stdout)
        with listen(HOST, 0) as listener:
            await server.serve([listener])


@dataclass
class Gallery:
    """What is served, and to whom.

    Attributes:
        store: the output.
        folder: of the run's report in it.
        page: the gallery, on this machine.
        files: paths in the store that may be asked for: those of the run.
        sources: by row, the run's sources on S3.
        root: the path below which everything is.
    """

    store: Store
    folder: str
    page: Path
    files: set[str] = field(default_factory=set)
    sources: dict[int, str] = field(default_factory=dict)
    root: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(16)}")

    @classmethod
    async def read(cls, store: Store, folder: str, scratch: Path) -> Gallery:
        """Read which pictures are the run's.

        Args:
            store: the output.
            folder: of the run's report in it.
            scratch: a directory for the page and the report.

        Raises:
            ConfigurationError: the run has no gallery.
            StoreError: the store cannot be read.
        """
        page, report = scratch / layout.GALLERY, scratch / layout.REPORT_JSONL
        for file in (page, report):
            if not await store.get_file(f"{folder}/{file.name}", file):
                raise ConfigurationError(
                    f"{store.uri_of(folder)} has no {file.name}: a batch writes it when it ends"
                )
        gallery = cls(store, folder, page)
        gallery.files = {
            f"{folder}/{name}" for name in (layout.REPORT_JSONL, layout.REPORT_PARQUET, layout.SUMMARY)
        }
        with report.open("rb") as lines:
            for row in decode_rows(lines, store.uri_of(f"{folder}/{report.name}")):
                gallery._add(row)
        return gallery

    def _add(self, row: ReportRow) -> None:
        uris = [*row.outputs, *([row.metadata_uri] if row.metadata_uri else [])]
        self.files.update(
            uri.removeprefix(f"{self.store.uri}/") for uri in uris if uri.startswith(f"{self.store.uri}/")
        )
        if row.job_key and row.image.startswith("s3://"):
            self.sources[row.row] = row.image

    def app(self) -> ASGIApp:
        """Build the application."""
        return Starlette(
            routes=[
                Route("/favicon.ico", _no_content),  # every browser asks for it
                Route(f"{self.root}/", self._home),
                Route(f"{self.root}/{self.folder}/{layout.GALLERY}", self._page),
                Route(f"{self.root}/source/{{row:int}}", self._source),
                Route(f"{self.root}/{{path:path}}", self._file),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST], www_redirect=False)],
            exception_handlers={RestyleError: _on_error},
        )

    async def _home(self, _: Request) -> Response:
        return RedirectResponse(f"{self.root}/{self.folder}/{layout.GALLERY}", headers=_HEADERS)

    async def _page(self, _: Request) -> Response:
        return FileResponse(self.page, media_type="text/html; charset=utf-8", headers=_HEADERS)

    async def _source(self, request: Request) -> Response:
        uri = self.sources.get(request.path_params["row"])
        if uri is None:
            raise HTTPException(404)
        return RedirectResponse(await presigned(uri, self.store), headers={**_HEADERS, **_KEPT})

    async def _file(self, request: Request) -> Response:
        path = request.path_params["path"]
        if path not in self.files:
            raise HTTPException(404)
        downloads = "download" in request.query_params
        if self.store.access and not downloads:
            link = await presigned(self.store.uri_of(path), self.store)
            return RedirectResponse(link, headers={**_HEADERS, **_KEPT})
        data = await self.store.get(path)
        if data is None:
            raise HTTPException(404)
        headers = {**_SANDBOXED, **({"Content-Disposition": "attachment"} if downloads else {})}
        return Response(data, media_type=_media_type(path), headers=headers)


async def _no_content(_: Request) -> Response:
    return Response(status_code=204)


def _media_type(path: str) -> str:
    return mimetypes.guess_type(PurePosixPath(path).name)[0] or "application/octet-stream"


async def _on_error(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 502, headers=_HEADERS)
