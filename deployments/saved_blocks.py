"""Loading a block that may not be saved."""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block

from prefect_wavespeed.blocks.loading import BlockNotFoundError, load_block
from prefect_wavespeed.errors import ConfigurationError

_B = TypeVar("_B", bound=Block)


async def load_if_saved(block_type: type[_B], name: str) -> _B | None:
    """Load a block; None where no block of that name is saved.

    Raises:
        ConfigurationError: it cannot be loaded: a block that it refers to was deleted, for example.
    """
    slug = f"{block_type.get_block_type_slug()}/{name}"
    try:
        return await load_block(block_type, name, if_missing="save it first")
    except BlockNotFoundError:
        return None
    except ConfigurationError:
        raise ConfigurationError(
            f"block {slug} cannot be loaded, as a block that it refers to may have been deleted: "
            f"`prefect block delete {slug}`, then run `restyle setup` again"
        ) from None
