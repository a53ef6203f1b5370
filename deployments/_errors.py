"""Anything that can go wrong in a command, as an error that one line can tell."""

from __future__ import annotations

import re

import httpx
from pydantic import ValidationError

from restyle.errors import ConfigurationError, InvalidRequestError, RestyleError, clean
from restyle.models import wanted

# What a request's field is called on the command line.
_OPTIONS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "num_images": "--num-images",
    "output_format": "--format",
}
# What a message calls a parameter of a flow, which is an option here.
_PARAMETER = re.compile(r"(?<!\S)(max_cost_usd|max_failed|on_bad_row|retry_failed)\b(=?)")


def as_told(error: Exception) -> RestyleError:
    """What went wrong as an error of ours, which names options as they are typed."""
    told = _as_ours(error)
    told.message = _PARAMETER.sub(lambda found: _option(found[1]) + (" " if found[2] else ""), told.message)
    return told


def _as_ours(error: Exception) -> RestyleError:
    match error:
        case RestyleError():
            return error
        case ValidationError():
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            option = _option(field) if field else "the options"
            return InvalidRequestError(f"{option} {clean(first['input'])}: {wanted(first)}", field=field)
        case httpx.ConnectError():  # our own client's never come as they are
            return _no_prefect()
        case RuntimeError() if "Failed to reach API" in str(error):
            return _no_prefect()
    return RestyleError(f"unexpected {type(error).__name__}: {clean(error)}")


def _option(field: str) -> str:
    return _OPTIONS.get(field, f"--{field.replace('_', '-')}")


def _no_prefect() -> ConfigurationError:
    from prefect.settings import get_current_settings

    url = clean(get_current_settings().api.url or "its own temporary server")
    return ConfigurationError(
        f"Prefect's API at {url} cannot be reached: start it with `prefect server start`, "
        "or unset PREFECT_API_URL"
    )
