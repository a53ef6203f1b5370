"""The size of a request that is to have the shape of its source."""

from __future__ import annotations

from functools import lru_cache
from math import log

from prefect_wavespeed.api.models import SOURCE_SIZE, ReduxParams
from prefect_wavespeed.job import Source
from prefect_wavespeed.sources.dimensions import dimensions
from prefect_wavespeed.storage.store import Store

_AREA = 1024 * 1024  # pixels, as by default: as long to make, and few sizes whose price has to be asked for
_STEP = 16
_EDGES = range(256, 1536 + 1, _STEP)  # what the API allows, in the model's steps
_SHAPE_COUNTS = 10  # times as much as area


async def with_size(params: ReduxParams, source: Source, store: Store) -> ReduxParams:
    """Parameters whose size is in numbers.

    Raises:
        SourceError, StoreError: the source has to be read for it, and cannot be.
    """
    if params.size != SOURCE_SIZE:
        return params
    width, height = await dimensions(source, store)
    return params.model_copy(update={"size": size_like(width, height)})


def _beside(edge: float) -> tuple[int, int]:
    below = int(edge) // _STEP * _STEP
    return _within(below), _within(below + _STEP)


def _within(edge: int) -> int:
    return min(max(edge, _EDGES[0]), _EDGES[-1])


@lru_cache(10_000)
def size_like(width: int, height: int) -> str:
    """The size with the shape of a picture, as ``W*H``: about one megapixel, in multiples of 16.

    The limits allow shapes up to 6 to 1; a longer picture gets that.
    """
    shape = width / height

    def misses(size: tuple[int, int]) -> float:
        wide, high = size
        return _SHAPE_COUNTS * abs(log(wide / high / shape)) + abs(log(wide * high / _AREA))

    # For each width only the heights beside the exact one can be the best: this is run for every source.
    wide, high = min(((wide, high) for wide in _EDGES for high in _beside(wide / shape)), key=misses)
    return f"{wide}*{high}"
