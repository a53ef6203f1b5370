"""What is wrong when Prefect cannot be used, and what to do about it."""

from __future__ import annotations

import httpx

from prefect_wavespeed.errors import ConfigurationError, RestyleError, redact

_SERVER_ERRORS = ("Failed to reach API", "Timed out while attempting to connect to ephemeral Prefect API")


def as_restyle_error(error: Exception) -> RestyleError:
    """Convert an exception, Prefect's among them, to an error that can be shown in one line."""
    cause: BaseException | None = error
    while cause:  # Prefect's server was gone when Prefect was about to record an error
        if isinstance(cause, RestyleError):
            return cause
        cause = cause.__context__
    match error:
        # from Prefect's client: our own client raises errors of its own
        case httpx.ConnectError():
            return _unavailable(error)
        case httpx.HTTPStatusError() if error.response.status_code in (401, 403, 404):
            return _unavailable(error)
        # Prefect raises a bare RuntimeError here: only its text tells it from others
        case RuntimeError() if any(text in str(error) for text in _SERVER_ERRORS):
            return _unavailable(error.__cause__ or error)
    return RestyleError(f"unexpected {type(error).__name__}: {redact(error)}")


def _unavailable(error: BaseException) -> ConfigurationError:
    from prefect.settings import get_current_settings

    if url := get_current_settings().api.url:
        return ConfigurationError(f"Prefect's API at {': '.join(describe_api_error(url, error))}")
    return ConfigurationError(
        "Prefect's temporary server stopped, or did not start in time: run the command again, or start a "
        "server with `prefect server start` and set PREFECT_API_URL"
    )


def describe_api_error(url: str, error: BaseException) -> tuple[str, str]:
    """Describe why Prefect's API at a URL cannot be used.

    Returns:
        The problem, which begins with the address, and the remedy.
    """
    address = without_credentials(url)
    match error:
        case httpx.HTTPStatusError() if (status := error.response.status_code) in (401, 403):
            remedy = "set PREFECT_API_AUTH_STRING (own server) or PREFECT_API_KEY (Cloud) to what it expects"
            return f"{address} refuses access (HTTP {status})", remedy
        case httpx.HTTPStatusError() if error.response.status_code == 404:
            return f"{address} answers HTTP 404", "check that PREFECT_API_URL ends with /api"
        case httpx.HTTPStatusError():
            return f"{address} answers HTTP {error.response.status_code}", "see the server's log"
    remedy = "start it with `prefect server start`, or correct or unset PREFECT_API_URL"
    return f"{address} cannot be reached ({type(error).__name__})", remedy


def without_credentials(url: str) -> str:
    """Return a URL that is safe to show: no user, no password, no query."""
    return redact(httpx.URL(url).copy_with(userinfo=b""))
