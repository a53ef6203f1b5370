"""A pydantic model's fields as flags of a command, so that name, help, range and default are spelled once."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, TypeVar, cast

import cyclopts
from cyclopts import Parameter
from pydantic import BaseModel, ValidationError, create_model

from prefect_wavespeed.api.models import wanted
from prefect_wavespeed.errors import redact

_Model = TypeVar("_Model", bound=BaseModel)

INLINE = Parameter(name="*")
"""Of a field that is a model: its fields are flags like the others, without this one's name in front."""
NO_FLAG = Parameter(parse=False, show=False)
SWITCH = Parameter(negative="")
"""Of a truth value: no ``--no-…`` beside it."""

FLAG_NAMES = {"num_inference_steps": "--steps", "guidance_scale": "--guidance", "output_format": "--format"}
"""Of fields whose flags have shorter names."""

_WRONG_KIND = re.compile(r"must be a valid \w+, unable to parse string as an? (\w+)")
_KINDS = {"integer": "a whole number", "number": "a number"}


def with_flags(**flags: Parameter) -> Callable[[type[_Model]], type[_Model]]:
    """Class decorator: a model whose fields become flags.

    Args:
        flags: by field, in what its flag differs from what cyclopts makes of the field.
    """

    def decorated(model: type[_Model]) -> type[_Model]:
        fields: dict[str, Any] = {
            name: (Annotated[model.model_fields[name].annotation, flag], copy(model.model_fields[name]))
            for name, flag in flags.items()
        }
        return cast("type[_Model]", create_model(model.__name__, __base__=model, **fields))

    return decorated


def refused_flag(refused: cyclopts.ValidationError) -> str:
    """Which flag a model refused, its value and what it must be, as a sentence."""
    if not isinstance(refused.__cause__, ValidationError):
        return str(refused)
    problem = refused.__cause__.errors(include_url=False)[0]
    field = str(problem["loc"][-1])
    requirement = wanted({**problem, "loc": (field,)})
    if wrong_kind := _WRONG_KIND.fullmatch(requirement):
        requirement = f"must be {_KINDS[wrong_kind[1]]}"
    flag = FLAG_NAMES.get(field) or f"--{field.replace('_', '-')}"
    return f"{flag} {redact(problem['input'])}: {requirement}."
