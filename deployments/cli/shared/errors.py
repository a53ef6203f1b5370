"""Any exception of a command as a `RestyleError` that names options the way they are typed."""

from __future__ import annotations

import re

from pydantic import ValidationError

from prefect_wavespeed.deployments import prefect_errors
from prefect_wavespeed.deployments.cli.shared.flags import describe_refused_field, flag_of
from prefect_wavespeed.errors import InvalidRequestError, RestyleError

# Messages name the parameters of flows; on the command line these are options.
_PARAMETER = re.compile(
    r"(?<!\S)(max_cost_usd|max_failed|on_bad_row|retry_failed|allow_local|ignore_columns|(?:carry|columns)(?==))\b(=?)"
)


def as_restyle_error(error: Exception) -> RestyleError:
    """Convert any exception; the message names options the way they are typed."""
    if isinstance(error, ValidationError):
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        return InvalidRequestError(describe_refused_field(error), field=field)
    converted = prefect_errors.as_restyle_error(error)
    converted.message = _PARAMETER.sub(
        lambda match: flag_of(match[1]) + (" " if match[2] else ""), converted.message
    )
    return converted
