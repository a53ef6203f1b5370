"""Fields of a pydantic model as flags of a command: name, help, range and default are spelled once."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Annotated, Any, TypeVar, cast

import cyclopts
from cyclopts import Parameter
from pydantic import BaseModel, ValidationError, create_model

from prefect_wavespeed.api.models import SHORT_NAMES, ReduxParams
from prefect_wavespeed.deployments.cli.shared.options import Flag
from prefect_wavespeed.errors import redact
from prefect_wavespeed.words import requirement

_Model = TypeVar("_Model", bound=BaseModel)

INLINE = Parameter(name="*")
"""For a field that is a model: its fields become flags like the others, without this one's name in front."""
NO_FLAG = Parameter(parse=False, show=False)
SWITCH = Flag
"""For a boolean without a ``--no-…`` counterpart."""


def with_flags(**flags: Parameter) -> Callable[[type[_Model]], type[_Model]]:
    """Class decorator: a model whose fields become flags.

    Args:
        flags: by field, how its flag differs from what cyclopts derives from the field.
    """

    def decorate(model: type[_Model]) -> type[_Model]:
        fields: dict[str, Any] = {
            name: (Annotated[model.model_fields[name].annotation, flag], copy(model.model_fields[name]))
            for name, flag in flags.items()
        }
        return cast("type[_Model]", create_model(model.__name__, __base__=model, **fields))

    return decorate


@with_flags(
    **{field: Parameter(name=f"--{short}") for field, short in SHORT_NAMES.items()},
    enable_base64_output=NO_FLAG,
    enable_sync_mode=NO_FLAG,
)
class PictureFlags(ReduxParams):
    """Parameters of the model as flags."""


def flag_of(field: str) -> str:
    """Return the flag of a field, or of a parameter of a flow: ``--steps`` for ``num_inference_steps``."""
    return f"--{SHORT_NAMES.get(field, field).replace('_', '-')}"


def describe_refused_flag(error: cyclopts.ValidationError) -> str:
    """Describe which flag a model refused, its value and what it must be."""
    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    return f"{describe_refused_field(error.__cause__)}."


def describe_refused_field(error: ValidationError) -> str:
    """Describe the first field that a model refused, by its flag."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][-1]) if problem["loc"] else ""
    wish = requirement({**problem, "loc": (field,)} if field else problem, ReduxParams)
    return f"{flag_of(field) if field else 'the options'} {redact(problem['input'])}: {wish}"
