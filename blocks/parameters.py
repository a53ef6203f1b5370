"""How flows and tasks are told which block to use: by its name, or by the block itself."""

from __future__ import annotations

from typing import Annotated, Any

from prefect.blocks.core import Block
from pydantic import WithJsonSchema

from prefect_wavespeed.blocks.names import LOCAL_BLOCK_PREFIX, S3_BLOCK_PREFIX
from prefect_wavespeed.blocks.wavespeed import WaveSpeed


def _picker(title: str, block_type: str) -> dict[str, Any]:
    """What Prefect's form shows as a list of the saved blocks of a type. A run gets a reference to one."""
    return {"title": title, "type": "object", "block_type_slug": block_type}


WaveSpeedParam = Annotated[
    WaveSpeed | str,
    WithJsonSchema({"anyOf": [{"title": "Name", "type": "string"}, _picker("Block", "wavespeed")]}),
]
"""A `WaveSpeed` block, or the name of one that is saved."""

OutputParam = Annotated[
    Block | str,
    WithJsonSchema(
        {
            "anyOf": [
                {"title": "Name or address", "type": "string"},
                _picker("S3 block", S3_BLOCK_PREFIX.strip("/")),
                _picker("Directory block", LOCAL_BLOCK_PREFIX.strip("/")),
            ]
        }
    ),
]
"""Where outputs go: a storage block, or what names one, a bucket's prefix or a directory."""


def shown(parameter: Block | str) -> str:
    """A block or output as a short name, for run names and messages."""
    if isinstance(parameter, str):
        return parameter
    return f"{parameter.get_block_type_slug()}/{parameter._block_document_name or '(not saved)'}"
