"""Read a manifest wherever it is, as a stream: a million rows need no more memory than a thousand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import httpx

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.api.public_http import FAILURES, public_client
from prefect_wavespeed.api.urls import is_loopback
from prefect_wavespeed.batch.manifest.columns import KNOWN_COLUMNS, Columns
from prefect_wavespeed.batch.manifest.files import FileReader, reader_for
from prefect_wavespeed.batch.manifest.folder import images_in, is_folder_or_pattern
from prefect_wavespeed.batch.manifest.prefix import images_below
from prefect_wavespeed.batch.manifest.rows import BadRow, Row, RowReader
from prefect_wavespeed.batch.manifest.text import UnreadableError
from prefect_wavespeed.errors import ManifestError, SourceError, redact
from prefect_wavespeed.local_files import expanded, in_time
from prefect_wavespeed.sources.objects import listed_object
from prefect_wavespeed.storage.backend import Entry, is_plain
from prefect_wavespeed.storage.open_store import bucket_store
from prefect_wavespeed.storage.s3_names import is_bucket_name
from prefect_wavespeed.storage.scratch import is_full, scratch_folder
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import mistyped_url, path_of_file_url, without_signature

_ROWS_AT_ONCE = 500
_S3 = "s3://"
LONGEST_WAIT = 300.0
"""Seconds that some hundred rows, or as many images of a folder, may take to be read."""

LONGEST_DOWNLOAD = 900.0
"""Seconds that a manifest on the web may take to be fetched."""
MOST_BYTES = 1 << 30
"""Bytes that it may have."""

_T = TypeVar("_T")

Rows: TypeAlias = list[Row | BadRow]
Manifest: TypeAlias = str | Sequence[str | Mapping[str, Any]]
"""What a batch is to restyle: where a manifest is; or images, or rows by their columns."""


async def read_manifest(
    manifest: Manifest,
    params: ReduxParams,
    store: Store,
    *,
    columns: Columns = KNOWN_COLUMNS,
    left_out: Counter[str] | None = None,
    allow_local: bool = False,
) -> AsyncGenerator[Rows, None]:
    """Read the images of a batch, in order, a few hundred at a time.

    Columns are ``image`` and, optionally, ``id``, ``variant`` and every field of ReduxParams, also by its
    short name. What a row leaves empty is as in ``params``. The images themselves are not looked up here.

    Args:
        manifest: path, ``s3://`` object or https URL of a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file
            (all but the last also gzipped, .gz); ``s3://bucket/prefix/``, a folder or a pattern such as
            ``photos/**/*.jpg`` for every image below it, except pictures that outputs of this project stored
            there; or a list of images, or of rows. A relative path is relative to the working directory.
        params: what applies where a row does not say otherwise.
        store: where outputs go: S3 is read with its credentials, if it is on S3.
        columns: which columns have other names, and which of a team's own are carried or left aside.
        left_out: counts what is below a prefix or in a folder and is no image, by the ending of its name.
        allow_local: a manifest on S3 or the web may name files of this machine.

    Yields:
        Rows, and BadRows for those that cannot be used. Close it (``contextlib.aclosing``) unless it is read
        to its end.

    Raises:
        ManifestError: there is no such manifest, it has no rows, or it cannot be read as a whole.
        ConfigurationError: S3 denies access.
        StoreError: S3 cannot be read now.
    """
    empty = True
    left_out = Counter() if left_out is None else left_out
    try:
        is_folder = isinstance(manifest, str) and await _is_folder(manifest)
        async with aclosing(_all_rows(manifest, params, store, columns, left_out, is_folder)) as batches:
            async for rows in batches:
                empty = False
                yield rows if allow_local or not _is_elsewhere(manifest) else list(map(_not_local, rows))
    except UnreadableError as error:
        raise ManifestError(f"manifest {safe_name(manifest)}: {redact(error)}") from None
    if empty:
        raise ManifestError(f"manifest {safe_name(manifest)}: it has no rows: give at least one image")


def _is_elsewhere(manifest: Manifest) -> bool:
    return isinstance(manifest, str) and "://" in manifest


def _not_local(row: Row | BadRow) -> Row | BadRow:
    """The row, unless it names a file: who may write the manifest must not read this machine's disk."""
    if isinstance(row, BadRow) or "://" in row.image:
        return row
    reason = (
        f"file of this machine: image {redact(row.image)}: a manifest from elsewhere may name one only with "
        "allow_local"
    )
    return BadRow(row.number, reason, row.id, row.safe_image, carried=row.carried)


def safe_name(manifest: Manifest) -> str:
    """The manifest's name without its signature: safe to show."""
    if not isinstance(manifest, str):
        return f"(a list of {len(manifest)})"
    try:
        return redact(without_signature(manifest) if _is_url(manifest) else manifest) or "''"
    except ValueError:
        return redact(manifest)


def _all_rows(
    manifest: Manifest,
    params: ReduxParams,
    store: Store,
    columns: Columns,
    left_out: Counter[str],
    is_folder: bool,
) -> AsyncGenerator[Rows, None]:
    if (given := columns.given()) and (kind := _without_columns(manifest, is_folder)):
        raise UnreadableError(f"{kind} has no columns: leave out {given}, or give a table")
    if not isinstance(manifest, str):
        return _in_batches(_listed(manifest, params, columns))
    if _is_prefix(manifest):
        return _in_batches_of(images_below(manifest, store, left_out), params)
    if is_folder:
        return _in_batches(_images(enumerate(images_in(manifest, store, left_out), 1), params))
    return _of_file(manifest, params, store, columns)


async def _is_folder(manifest: str) -> bool:
    return "://" not in manifest and await _in_time(partial(is_folder_or_pattern, manifest))


def _without_columns(manifest: Manifest, is_folder: bool) -> str | None:
    """What a manifest is if it is one that says nothing but images."""
    if not isinstance(manifest, str):
        return "a list of images" if all(isinstance(row, str) for row in manifest) else None
    if _is_prefix(manifest):
        return "a prefix"
    return "a folder or a pattern" if is_folder else None


def _is_prefix(manifest: str) -> bool:
    return _is_s3(manifest) and (manifest.endswith("/") or manifest.count("/") == 2)


def _listed(
    rows: Sequence[str | Mapping[str, Any]], params: ReduxParams, columns: Columns
) -> Iterator[Row | BadRow]:
    by_column, images = RowReader(params, columns=columns), RowReader(params, exact=True)
    for number, row in enumerate(rows, 1):
        yield images.read(number, {"image": row}) if isinstance(row, str) else by_column.read(number, row)


def _images(images: Iterable[tuple[int, str]], params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params, exact=True)
    return (reader.read(number, {"image": image}) for number, image in images)


async def _in_batches(rows: Iterator[Row | BadRow]) -> AsyncGenerator[Rows, None]:
    """Read in a thread: files block, and validation takes CPU time."""
    while batch := await _in_time(lambda: list(islice(rows, _ROWS_AT_ONCE))):
        yield batch


async def _in_time(call: Callable[[], _T]) -> _T:
    try:
        return await in_time(call, LONGEST_WAIT)
    except TimeoutError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None


def _is_url(manifest: str) -> bool:
    return "://" in manifest and not _is_s3(manifest)


def _is_s3(manifest: str) -> bool:
    return manifest.lower().startswith(_S3)


async def _in_batches_of(
    pages: AsyncGenerator[dict[str, Entry], None], params: ReduxParams
) -> AsyncGenerator[Rows, None]:
    number = 0
    async with aclosing(pages):
        async for images in pages:
            numbered = list(enumerate(images, number + 1))
            number += len(images)
            async with aclosing(_in_batches(_images(numbered, params))) as batches:
                async for batch in batches:
                    yield [_as_listed(row, images) for row in batch]


def _as_listed(row: Row | BadRow, images: Mapping[str, Entry]) -> Row | BadRow:
    """The row with its picture, as the listing identifies it, or why that cannot be used."""
    if isinstance(row, BadRow):
        return row
    try:
        return replace(row, source=listed_object(row.image, images[row.image]))
    except SourceError as error:
        return row.refused(error.message, type(error).__name__)


# --- a file, wherever it is ---


async def _of_file(
    manifest: str, params: ReduxParams, store: Store, columns: Columns
) -> AsyncGenerator[Rows, None]:
    async with _local_file(manifest, store) as path:
        read = _reader(manifest)
        async with aclosing(_in_batches(read(path, params, columns))) as batches:
            async for batch in batches:
                yield batch


def _bucket(name: str, store: Store) -> Store:
    return bucket_store(store.source_access, name)


def _reader(manifest: str) -> FileReader:
    return reader_for(urlsplit(manifest).path if _is_url(manifest) else manifest)


@asynccontextmanager
async def _local_file(manifest: str, store: Store) -> AsyncIterator[Path]:
    """The file itself, or a temporary copy."""
    if meant := path_of_file_url(manifest):
        raise UnreadableError(f"a file URL: use the path {redact(meant)}")
    if "://" not in manifest:
        yield await _in_time(partial(_existing, manifest))
        return
    _reader(manifest)  # refuses before anything is fetched
    with scratch_folder() as folder:
        path = folder / "manifest"
        if _is_s3(manifest):
            bucket, _, key = manifest[len(_S3) :].partition("/")
            if not (is_bucket_name(bucket) and is_plain(key)):
                raise UnreadableError("not a valid bucket name, or the key has an empty part, '.' or '..'")
            if not await _bucket(bucket, store).get_file(key, path):
                raise UnreadableError("no such object, or no such bucket")
        else:
            await _download(manifest, path)
        yield path


def _existing(manifest: str) -> Path:
    if not manifest:
        raise UnreadableError("it is empty: give a file, a folder or s3://bucket/prefix/")
    if meant := mistyped_url(manifest):
        raise UnreadableError(f"did you mean {redact(meant)}?")
    try:
        path = expanded(manifest)
        if not path.exists():
            raise UnreadableError("no such file or folder")
        if not path.is_file():  # a pipe or a device might never end
            raise UnreadableError("not a regular file")
    except (OSError, ValueError) as error:
        raise UnreadableError(getattr(error, "strerror", None) or str(error)) from None
    return path


async def _download(url: str, path: Path) -> None:
    """Fetch a file, without the API key, from a public host as sources are."""
    _refuse_plain_http(urlsplit(url).scheme, urlsplit(url).hostname)
    headers, size = {"Accept-Encoding": "identity"}, 0
    try:
        host = httpx.URL(url).host
        async with (
            asyncio.timeout(LONGEST_DOWNLOAD),
            public_client(host, follow_redirects=True, timeout=30) as http,
            http.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise UnreadableError(f"HTTP {response.status_code}{_HINTS.get(response.status_code, '')}")
            with path.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    size += await asyncio.to_thread(file.write, chunk)
                    if size > MOST_BYTES:
                        raise UnreadableError(
                            f"over {MOST_BYTES / 2**20:,.0f} MB: divide it, or put it on S3"
                        )
    except TimeoutError:
        raise UnreadableError(f"not fetched within {LONGEST_DOWNLOAD:g} s: put it on S3") from None
    except FAILURES as error:
        if is_full(error):
            raise
        reason = redact(error) or type(error).__name__
        raise UnreadableError(
            f"cannot be fetched: {reason}: give https:// on a public host, s3:// or a path"
        ) from None


_HINTS = {
    401: ": access denied: give a signed URL",
    403: ": access denied, or the signature has expired",
    404: ": no such file",
}


def _refuse_plain_http(scheme: str, host: str | None) -> None:
    if scheme.lower() != "https" and not (scheme.lower() == "http" and is_loopback(host or "")):
        raise UnreadableError(f"{scheme}:// is not supported: give https://, s3:// or a path")
