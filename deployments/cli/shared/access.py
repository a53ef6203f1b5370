"""What may be wrong with the access to WaveSpeedAI and is found out without Prefect, which takes seconds."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from prefect_wavespeed.api.urls import checked_base_url
from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.errors import ConfigurationError

NO_KEY = "no WaveSpeedAI API key: set WAVESPEED_API_KEY, or save the block with `restyle setup`"
_SAVED = (
    "SELECT 1 FROM block_document JOIN block_type ON block_type.id = block_document.block_type_id"
    " WHERE block_type.slug = 'wavespeed' AND block_document.name = ?"
)


def check_access(wavespeed: str) -> None:
    """Refuse at once what no run could use: an API in the clear, and no key anywhere.

    Args:
        wavespeed: the WaveSpeed block that is asked for.

    Raises:
        ConfigurationError: WAVESPEED_BASE_URL cannot be used, or there is no WAVESPEED_API_KEY and no block.
    """
    if base_url := os.environ.get("WAVESPEED_BASE_URL"):
        try:
            checked_base_url(base_url)
        except ConfigurationError as error:
            error.message = error.message.replace("base_url", "WAVESPEED_BASE_URL", 1)
            raise
    has_key = os.environ.get("WAVESPEED_API_KEY", "").strip()
    if wavespeed == WAVESPEED_BLOCK and not has_key and not _may_be_saved():
        raise ConfigurationError(NO_KEY)


def _may_be_saved() -> bool:
    """Whether the block may be saved in Prefect: only a server that runs can say so for sure."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    url = settings.server.database.connection_url
    kind, _, database = url.get_secret_value().partition(":///") if url else ("", "", "")
    if settings.api.url or kind != "sqlite+aiosqlite" or not database:
        return True
    try:
        if not Path(database).exists():
            return False
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(_SAVED, (WAVESPEED_BLOCK,)).fetchone() is not None
    except (OSError, sqlite3.Error):
        return True
