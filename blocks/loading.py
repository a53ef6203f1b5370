"""Loading saved blocks, with errors that say what to do."""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from prefect_wavespeed.errors import ConfigurationError, redact

_B = TypeVar("_B", bound=Block)


class BlockNotFoundError(ConfigurationError):
    """No block of this name is saved, and the environment does not replace it."""


async def load_block(block_type: type[_B], name: str, *, if_missing: str) -> _B:
    """Load a saved block.

    Args:
        block_type: its class.
        name: its name, without the type.
        if_missing: what to do when none of this name is saved, for the error's message.

    Raises:
        BlockNotFoundError: none of this name is saved.
        ConfigurationError: it is invalid, or a block that it refers to is gone.
    """
    slug = f"{block_type.get_block_type_slug()}/{name}"
    try:
        return await block_type.aload(name)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise ConfigurationError(f"block {slug}: invalid {fields or 'data'}: save the block again") from None
    except (ValueError, RuntimeError) as error:
        if isinstance(error.__cause__, ObjectNotFound):
            raise BlockNotFoundError(f"no block {slug} is saved: {if_missing}") from None
        raise ConfigurationError(f"block {slug} cannot be loaded: {redact(error)}: save it again") from None
