"""Prefect blocks: the API and the outputs that a run works with, and the names of what is saved in Prefect.

Imported lazily: the names must not cost a command the seconds that Prefect takes to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_wavespeed.blocks.wavespeed import WaveSpeed

__all__ = ["WaveSpeed"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from prefect_wavespeed.blocks import wavespeed

        return getattr(wavespeed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:  # `prefect block register --module` looks here
    return [*globals(), *__all__]
