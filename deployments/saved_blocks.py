"""Loading a block that may not be saved."""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

from prefect_wavespeed.errors import ConfigurationError

_B = TypeVar("_B", bound=Block)


async def load_if_saved(block: type[_B], name: str) -> _B | None:
    """Load a block; None where no block of that name is saved.

    Raises:
        ConfigurationError: it cannot be loaded: a block that it refers to was deleted, for example.
    """
    try:
        return await block.aload(name)
    except (ValueError, RuntimeError) as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        slug = f"{block.get_block_type_slug()}/{name}"
        raise ConfigurationError(
            f"a block that {slug} refers to may have been deleted, so it cannot be loaded: "
            f"`prefect block delete {slug}`, then run `restyle setup` again"
        ) from None
