"""JSON files that this package wrote to the output, read again.

Others may write there, too, so what cannot be read is an error that names the file.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from prefect_wavespeed.errors import StoreError
from prefect_wavespeed.words import counted

_Model = TypeVar("_Model", bound=BaseModel)


def decode(data: bytes, model: type[_Model], uri: str) -> _Model:
    """Read a file, or a line of one.

    Args:
        data: its bytes.
        model: what they hold.
        uri: the file's, for the error.

    Raises:
        StoreError: they do not hold it; trying again does not help.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise StoreError(
            f"{uri} was not written by this version "
            f"({counted(error.error_count(), 'field')} not as it should be): upgrade, or move it away",
            retryable=False,
        ) from None
