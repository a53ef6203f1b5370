"""Anything that can go wrong in a command, as an error that one line can tell."""

from __future__ import annotations

import re

import httpx
from pydantic import ValidationError

from prefect_wavespeed.api.models import wanted
from prefect_wavespeed.errors import ConfigurationError, InvalidRequestError, RestyleError, redact

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
            return InvalidRequestError(f"{option} {redact(first['input'])}: {wanted(first)}", field=field)
        # of Prefect's client: our own client's never come as they are
        case httpx.ConnectError():
            return _no_prefect(error)
        case httpx.HTTPStatusError() if error.response.status_code in (401, 403, 404):
            return _no_prefect(error)
        case RuntimeError() if "Failed to reach API" in str(error):
            return _no_prefect(error.__cause__ or error)
    return RestyleError(f"unexpected {type(error).__name__}: {redact(error)}")


def _option(field: str) -> str:
    return _OPTIONS.get(field, f"--{field.replace('_', '-')}")


def _no_prefect(problem: BaseException) -> ConfigurationError:
    from prefect.settings import get_current_settings

    if url := get_current_settings().api.url:
        return ConfigurationError(f"Prefect's API at {': '.join(prefect_trouble(url, problem))}")
    return ConfigurationError(
        "Prefect's temporary server is gone: run it again, or start one with `prefect server start` and set "
        "PREFECT_API_URL"
    )


def prefect_trouble(url: str, problem: BaseException) -> tuple[str, str]:
    """Why Prefect's API is of no use, beginning with its address, and what to do."""
    shown = without_login(url)
    match problem:
        case httpx.HTTPStatusError() if (status := problem.response.status_code) in (401, 403):
            remedy = (
                "set PREFECT_API_AUTH_STRING (own server) or PREFECT_API_KEY (Cloud), as the server wants it"
            )
            return f"{shown} refuses us (HTTP {status})", remedy
        case httpx.HTTPStatusError():
            found = f"{shown} answers HTTP {problem.response.status_code}"
            return found, "see whether PREFECT_API_URL ends with /api"
    remedy = "start it with `prefect server start`, or mend or unset PREFECT_API_URL"
    return f"{shown} cannot be reached ({type(problem).__name__})", remedy


def without_login(url: str) -> str:
    """A URL that is safe to show."""
    return redact(httpx.URL(url).copy_with(userinfo=b""))
