"""The images of a batch, read as a stream: a million rows need no more memory than a thousand.

Row numbers are what an editor shows: the line in a JSONL or CSV file (a CSV file's header is line 1), and
elsewhere a count from 1.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import httpx

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.api.urls import is_loopback
from prefect_wavespeed.batch.rows import COLUMNS, KINDS, BadRow, Kind, Row, RowReader, show, unknown
from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.errors import ManifestError, SourceError, redact
from prefect_wavespeed.sources.objects import find_object
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.open_store import bucket_store, s3_access
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import without_signature

__all__ = ["BadRow", "Row", "read_manifest", "shown"]

BATCH = 500
LINE_LIMIT = 1 << 20  # bytes
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")

_STORED = re.compile(r"(?:^|/)(?:images|quarantine)/[^/]+-[0-9a-f]{16}/\d+\.\w+$")  # as outputs lay them out
_AT_ONCE = 50  # looks at objects

_PREFIX = "s3://bucket/prefix/ for every image below it"

Batch = list[Row | BadRow]


async def read_manifest(
    manifest: str | Sequence[str], params: ReduxParams, store: Store
) -> AsyncGenerator[Batch, None]:
    """Read the images of a batch, in their options, a few hundred at a time.

    Columns are ``image`` and, as one likes, ``id``, ``variant`` and every field of ReduxParams. What a row
    leaves empty holds as in ``params``. Whether a picture is there is not looked up here.

    Args:
        manifest: path, ``s3://`` object or https URL of a .jsonl, .ndjson, .csv or .parquet file (the first
            three also gzipped, .gz); ``s3://bucket/prefix/`` for every image below it, without the
            pictures that outputs of this project stored there; or a list of images. A relative path is
            relative to the working directory.
        params: what holds where a row says nothing.
        store: where outputs go: S3 is read with its credentials, if it is on S3.

    Yields:
        Rows, and BadRows for those that cannot be used. Close it (``contextlib.aclosing``) if it is not read
        to its end.

    Raises:
        ManifestError: there is no such list of images, it has no rows, or it cannot be read as a whole.
        ConfigurationError: S3 refuses to show it.
        StoreError: S3 cannot be read now.
    """
    empty = True
    try:
        async with aclosing(_batches(manifest, params, store)) as batches:
            async for batch in batches:
                empty = False
                yield batch
    except _UnreadableError as error:
        raise ManifestError(f"manifest {shown(manifest)}: {redact(error)}") from None
    if empty:
        raise ManifestError(f"manifest {shown(manifest)}: it has no rows: give one image at least")


def shown(manifest: str | Sequence[str]) -> str:
    """The manifest's name without its signature: safe to show."""
    if not isinstance(manifest, str):
        return f"(a list of {len(manifest)})"
    try:
        return redact(without_signature(manifest) if _is_url(manifest) else manifest) or "''"
    except ValueError:
        return redact(manifest)


class _UnreadableError(Exception):
    """What is wrong with the whole of a manifest, and what to do."""


def _batches(manifest: str | Sequence[str], params: ReduxParams, store: Store) -> AsyncGenerator[Batch, None]:
    if not isinstance(manifest, str):
        return _in_batches(_images(enumerate(manifest, 1), params))
    if manifest.lower().startswith("s3://") and (manifest.endswith("/") or manifest.count("/") == 2):
        return _below(manifest, params, store)
    return _of_file(manifest, params, store)


def _images(images: Iterable[tuple[int, str]], params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params)
    return (reader.read(number, {"image": image}) for number, image in images)


async def _in_batches(rows: Iterator[Row | BadRow]) -> AsyncGenerator[Batch, None]:
    """Read in a thread: files block, and checking is work."""
    while batch := await asyncio.to_thread(lambda: list(islice(rows, BATCH))):
        yield batch


# --- every image below a prefix ---


async def _below(manifest: str, params: ReduxParams, store: Store) -> AsyncGenerator[Batch, None]:
    bucket, _, prefix = manifest[len("s3://") :].partition("/")
    if not bucket:
        raise _UnreadableError("the bucket's name is missing: give s3://bucket/prefix/")
    root = f"s3://{bucket}/{prefix}"
    ours, number = _ours(root, store), 0
    async for page in _bucket(bucket, store).pages(prefix):
        images = [f"s3://{bucket}/{entry.path}" for entry in page if _is_picture(entry)]
        images = await _sources([image for image in images if not image.startswith(ours)], root, store)
        numbered = list(enumerate(images, number + 1))
        number += len(images)
        async with aclosing(_in_batches(_images(numbered, params))) as batches:
            async for batch in batches:
                yield batch
    if not number:
        raise _UnreadableError(
            f"no image below it ({', '.join(PICTURES)}), but what this project stored there: to restyle "
            "that, name its folder images/"
        )


def _ours(prefix: str, store: Store) -> tuple[str, ...]:
    """Where our own pictures lie, if the output is in the same bucket."""
    output = f"{store.uri}/"
    if output.startswith(prefix) and output != prefix:
        return (output,)
    return f"{output}images/", f"{output}quarantine/"  # beside the sources, or above them


def _is_picture(entry: Entry) -> bool:
    return PurePosixPath(entry.path).suffix.lower() in PICTURES


async def _sources(images: list[str], root: str, store: Store) -> list[str]:
    """Those that no other output stored below the root: two that read each other would pay for ever.

    Whoever names the folder ``images/`` itself means what is stored there.
    """
    looks_stored = [image for image in images if _STORED.search(image.removeprefix(root))]
    ours = await map_all(lambda image: _is_ours(image, store), looks_stored, _AT_ONCE)
    found = {image for image, is_ours in zip(looks_stored, ours, strict=True) if is_ours}
    return [image for image in images if image not in found]


async def _is_ours(image: str, store: Store) -> bool:
    try:
        return (await find_object(image, store, with_bytes=False)).is_output
    except SourceError:  # its row will tell
        return False


def _bucket(name: str, store: Store) -> Store:
    return bucket_store(s3_access(store), name)


# --- a file, wherever it is ---


async def _of_file(manifest: str, params: ReduxParams, store: Store) -> AsyncGenerator[Batch, None]:
    async with _at_hand(manifest, store) as path:
        read = _reader(manifest)
        async with aclosing(_in_batches(read(path, params))) as batches:
            async for batch in batches:
                yield batch


@asynccontextmanager
async def _at_hand(manifest: str, store: Store) -> AsyncIterator[Path]:
    """The file itself, or a copy that is gone afterwards."""
    if "://" not in manifest:
        yield await asyncio.to_thread(_existing, manifest)
        return
    _reader(manifest)  # before anything is fetched
    with tempfile.TemporaryDirectory(prefix="restyle-") as folder:
        path = Path(folder, "manifest")
        if manifest.lower().startswith("s3://"):
            bucket, _, key = manifest[len("s3://") :].partition("/")
            if not await _bucket(bucket, store).get_file(key, path):
                raise _UnreadableError("no such object, or no such bucket")
        else:
            await _download(manifest, path)
        yield path


def _existing(manifest: str) -> Path:
    try:
        path = Path(manifest).expanduser()
        if path.is_dir():
            raise _UnreadableError(
                "a directory: give a file, or s3://bucket/prefix/ for every image below it"
            )
        if not path.exists():
            raise _UnreadableError("no such file")
    except (OSError, RuntimeError, ValueError) as error:
        raise _UnreadableError(getattr(error, "strerror", None) or str(error)) from None
    return path


async def _download(url: str, path: Path) -> None:
    """Fetch a file of any size, without the API key."""
    _refuse_plain_http(urlsplit(url).scheme, urlsplit(url).hostname)
    headers = {"Accept-Encoding": "identity"}
    try:
        async with (
            httpx.AsyncClient(follow_redirects=True, timeout=30) as http,
            http.stream("GET", url, headers=headers) as response,
        ):
            _refuse_plain_http(response.url.scheme, response.url.host)
            if response.status_code != 200:
                raise _UnreadableError(f"HTTP {response.status_code}{_MEANS.get(response.status_code, '')}")
            with path.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    await asyncio.to_thread(file.write, chunk)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _UnreadableError(f"cannot be fetched: {str(error) or type(error).__name__}") from None


_MEANS = {
    401: ": access denied: give a signed URL",
    403: ": access denied, or a signature that has expired",
    404: ": no such file",
}


def _refuse_plain_http(scheme: str, host: str | None) -> None:
    if scheme.lower() != "https" and not (scheme.lower() == "http" and is_loopback(host or "")):
        raise _UnreadableError(f"{scheme}:// is not supported: give https://, s3:// or a path")


def _is_url(manifest: str) -> bool:
    return "://" in manifest and not manifest.lower().startswith("s3://")


# --- what is in a file ---

Reader = Callable[[Path, ReduxParams], Iterator[Row | BadRow]]


def _reader(manifest: str) -> Reader:
    path = urlsplit(manifest).path if _is_url(manifest) else manifest
    suffix = PurePosixPath(path.lower().removesuffix(".gz")).suffix
    if suffix not in _READERS:
        raise _UnreadableError(
            f"its kind is not known: give a file that ends in {', '.join(_READERS)}, or {_PREFIX}"
        )
    return _READERS[suffix]


def _jsonl(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params)
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line.rstrip(), parse_constant=_no_json)
        except json.JSONDecodeError as error:  # which counts lines, too, but within the row
            yield BadRow(number, f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}")
            continue
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"not JSON: {redact(error)}")
            continue
        if isinstance(cells, dict):
            yield reader.read(number, cells)
        else:
            yield BadRow(number, f'{show(cells)} is no JSON object: give {{"image": "…"}}')


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _csv(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params, from_text=True)
    lines = csv.reader(_lines(path), skipinitialspace=True, strict=True)
    last = 0
    try:
        header = [name.strip() for name in next((cells for cells in lines if any(cells)), [])]
        if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
            raise _UnreadableError(f"its columns {show(header[0])} are not separated by commas")
        if header:
            _check_columns(header)
        last = lines.line_num
        for cells in lines:
            number, last = last + 1, lines.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                yield BadRow(number, f"{len(cells)} cells where the header has {len(header)}")
            else:
                yield reader.read(number, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise _UnreadableError(f"row {last + 1} is no CSV: {error}: is a quote not closed?") from None


def _parquet(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    reader, number = RowReader(params), 0
    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            schema = file.schema_arrow
            # what pandas keeps of an index is no column
            columns = [name for name in schema.names if not name.startswith("__index_level_")]
            _check_columns(columns)
            for name in columns:
                _check_type(name, schema.field(name).type)
            for batch in file.iter_batches(BATCH, columns=columns):
                for cells in batch.to_pylist():
                    number += 1
                    yield reader.read(number, cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _UnreadableError(f"not a whole Parquet file: {error}") from None


_READERS: dict[str, Reader] = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _check_columns(names: Sequence[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise _UnreadableError(unknown(name))
        if names.count(name) > 1:
            raise _UnreadableError(f"column {name!r} is there twice")
    if "image" not in names:
        raise _UnreadableError(f"no column 'image': its columns are {', '.join(names)}")


def _check_type(name: str, kind: Any) -> None:
    """Refuse a column of which no value could be right."""
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    number = types.is_integer(value) or types.is_floating(value)
    fits: dict[Kind, bool] = {
        "text": text,
        "text or a number": text or number,
        "true or false": types.is_boolean(value),
        "a number": number,
        "a whole number": number,
    }
    if not (fits[KINDS[name]] or types.is_null(value)):
        raise _UnreadableError(f"column {name!r} is of type {kind}: give {KINDS[name]}")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text, gzipped or not, each with its end."""
    try:
        with _opened(path) as file:
            for number in count(1):
                line = file.readline(LINE_LIMIT)
                if not line:
                    return
                if len(line) == LINE_LIMIT:
                    raise _UnreadableError(f"row {number} has more than 1 MB: give one image a line")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise _UnreadableError(f"row {number} is not UTF-8: save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _UnreadableError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path)) if gzipped else path.open("rb")
