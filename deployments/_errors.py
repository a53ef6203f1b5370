"""Anything that can go wrong in a command, as an error that one line can tell."""

from __future__ import annotations

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


def as_told(error: Exception) -> RestyleError:
    """The error itself where it is one of ours, else one that says what it means."""
    match error:
        case RestyleError():
            return error
        case ValidationError():
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            option = _OPTIONS.get(field, f"--{field.replace('_', '-')}" if field else "the options")
            return InvalidRequestError(f"{option} {clean(first['input'])}: {wanted(first)}", field=field)
        case httpx.ConnectError():  # our own client's never come as they are
            return _no_prefect()
        case RuntimeError() if "Failed to reach API" in str(error):
            return _no_prefect()
    return RestyleError(f"unexpected {type(error).__name__}: {clean(error)}")


def _no_prefect() -> ConfigurationError:
    from prefect.settings import get_current_settings

    url = clean(get_current_settings().api.url or "its own temporary server")
    return ConfigurationError(
        f"Prefect's API at {url} cannot be reached: start it with `prefect server start`, "
        "or unset PREFECT_API_URL"
    )
