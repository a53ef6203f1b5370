"""A saved block, if there is one."""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

_B = TypeVar("_B", bound=Block)


async def load(block: type[_B], name: str) -> _B | None:
    """The block of this name, or None where none is saved."""
    try:
        return await block.aload(name)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise
