"""A saved block, if there is one."""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

from prefect_wavespeed.errors import ConfigurationError

_B = TypeVar("_B", bound=Block)


async def load(block: type[_B], name: str) -> _B | None:
    """The block of this name, or None where none is saved.

    Raises:
        ConfigurationError: it cannot be used as it is: a block that it refers to was deleted, say.
    """
    try:
        return await block.aload(name)
    except (ValueError, RuntimeError) as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        slug = f"{block.get_block_type_slug()}/{name}"
        raise ConfigurationError(
            f"block {slug} cannot be used as it is: what it refers to may be gone: "
            f"`prefect block delete {slug}`, then run `restyle setup` again"
        ) from None
