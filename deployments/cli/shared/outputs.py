"""Opening an output that a command reads or finishes, without waiting for Prefect where that is possible."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prefect_wavespeed.blocks.names import is_block
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.output_name import check_output_name
from prefect_wavespeed.storage.store import Store


async def open_without_prefect(out: str) -> Store | None:
    """Open an existing output; None for a block, which only Prefect can resolve.

    Raises:
        ConfigurationError: the directory does not exist, or ``out`` does not name an output.
    """
    check_output_name(out, "--out")
    if is_block(out):
        return None
    if "://" not in out and not await asyncio.to_thread(_is_directory, out):
        raise ConfigurationError(f"--out {out}: no such directory: give the one that holds the pictures")
    return open_store(out)


@asynccontextmanager
async def new_output(out: str, *, dry_run: bool = False) -> AsyncIterator[Store | None]:
    """Open an output to check what it is to hold; None for a block, which only Prefect can resolve.

    That a directory is new is said at the end, unless nothing will be stored: it may be a mistake, and
    nothing is spent yet. It is made again by what follows.

    Raises:
        ConfigurationError: ``out`` does not name an output, or it cannot be used.
    """
    check_output_name(out, "--out")
    if is_block(out):
        yield None
        return
    is_new = "://" not in out and not await asyncio.to_thread(_is_directory, out)
    store = open_store(out)
    try:
        yield store
    finally:
        await store.discard_if_empty()
    if is_new and not dry_run:
        print(f"created directory {store.uri}", file=sys.stderr)


async def open_existing_output(out: str) -> Store:
    """Open an existing output.

    Raises:
        ConfigurationError: the directory or block does not exist, or ``out`` does not name an output.
    """
    if store := await open_without_prefect(out):
        return store
    from prefect_wavespeed.blocks.output import open_output

    return await open_output(out)


def _is_directory(path: str) -> bool:
    return Path(path).expanduser().is_dir()
