"""Thumbnails of what is stored, for a notebook."""

from __future__ import annotations

from functools import partial

from prefect_wavespeed.concurrency import run_to_end
from prefect_wavespeed.job import Output, Restyled
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

_EDGE = 240  # pixels


def with_thumbnails(restyled: Restyled, store: Store) -> Restyled:
    """The same, and a notebook shows its pictures, which it reads from the store when it does."""
    return restyled.shown_by(partial(_thumbnail, store))


def _thumbnail(store: Store, output: Output) -> bytes | None:
    """A picture, small; None if it is flagged, in quarantine or gone."""
    path = (output.uri or "").removeprefix(f"{store.uri}/")
    if not path or output.nsfw or layout.is_quarantined(path):
        return None
    picture = run_to_end(store.get(path))
    return thumbnail(picture, _EDGE) if picture else None
