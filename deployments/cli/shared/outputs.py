"""Opening an output that a command reads or finishes, without waiting for Prefect where that is possible."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect_wavespeed.blocks.names import is_block
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.store import Store


async def open_without_prefect(out: str) -> Store | None:
    """Open an existing output; None for a block, which only Prefect can resolve.

    Raises:
        ConfigurationError: the directory does not exist, or ``out`` does not name an output.
    """
    if is_block(out):
        return None
    if "://" not in out and not await asyncio.to_thread(_is_directory, out):
        raise ConfigurationError(f"--out {out}: no such directory: give the one that holds the pictures")
    return open_store(out)


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
