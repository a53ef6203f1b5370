"""Sources on this machine: a file, identified by its bytes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from prefect_wavespeed.errors import SourceError, redact
from prefect_wavespeed.job import Source
from prefect_wavespeed.local_files import NotRegularError, TooLongError, in_time, read_regular
from prefect_wavespeed.quality.verify import MAX_SOURCE_BYTES, check_source_size, verify_source
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.documents import decode
from prefect_wavespeed.storage.store import Store


async def read_file(image: str) -> bytes:
    """The bytes of a local picture.

    Raises:
        SourceError: it is missing, cannot be read in time, or is too big.
    """
    try:
        return await in_time(partial(read_regular, image, MAX_SOURCE_BYTES))
    except FileNotFoundError:
        raise SourceError(f"no such file: image {image}") from None
    except IsADirectoryError:
        raise SourceError(f"directory instead of a picture: image {image}: use a file in it") from None
    except NotRegularError as error:
        raise SourceError(f"{error.strerror}: image {image}") from None
    except TooLongError as error:
        check_source_size(error.size, f"image {image}")
        raise
    except OSError as error:
        raise SourceError(f"{redact(error.strerror or error)}: image {image} cannot be read") from None


async def size_of_file(image: str) -> int:
    """The bytes of a local file; 0 where ``read_file`` says what is wrong with it."""
    try:
        return await in_time(lambda: Path(image).stat().st_size)
    except OSError:
        return 0


_READ_AT_ONCE = 16  # files of 20 MB at most
_readers: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


async def _checked_digest(image: str) -> str:
    """The SHA-256 of a local picture, in hexadecimal; of its bytes nothing is left in memory."""
    async with _readers.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_READ_AT_ONCE)):
        data = await read_file(image)
        verify_source(data, f"image {image}")
        return hashlib.sha256(data).hexdigest()


async def file_source(image: str, store: Store) -> Source:
    """The picture in a file, identified by the SHA-256 of its bytes.

    Args:
        image: its path.
        store: keeps the file's name: the same bytes are the same job under any name, so the first one holds
            for good.

    Raises:
        SourceError: it is missing, cannot be read, is no image, cut short, or too big.
        StoreError: the store cannot be used now.
    """
    sha256 = await _checked_digest(image)
    path = Path(os.path.abspath(os.path.expanduser(image)))  # noqa: ASYNC240, PTH100, PTH111 - no I/O
    name = await _first_name(sha256, path.name, store)
    return Source(
        uri=path.as_uri(), identity=f"sha256:{sha256}", name=name, location=str(path), sha256=sha256
    )


class _FirstName(BaseModel):
    """The name under which a file was first used."""

    name: str


async def _first_name(sha256: str, name: str, store: Store) -> str:
    path = layout.source_name(sha256)
    data = await store.get(path)
    if data is None:
        if await store.create(path, _FirstName(name=name).model_dump_json().encode()):
            return name
        data = await store.get(path)
    return name if data is None else decode(data, _FirstName, store.uri_of(path)).name
