"""The token that senders of notifications have to show."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from contextlib import suppress

import httpx
from prefect.blocks.system import Secret
from starlette.requests import Request

from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET, RECEIVER_TOKEN_VARIABLE
from prefect_wavespeed.deployments.saved_blocks import load_if_saved
from prefect_wavespeed.errors import ConfigurationError, redact

_MIN_BYTES = 16


async def load_token() -> str | None:
    """Return the token in RESTYLE_RECEIVER_TOKEN, or else in its Secret block; None where neither exists.

    Raises:
        ConfigurationError: the block cannot be read, or the token is too short.
    """
    if token := os.environ.get(RECEIVER_TOKEN_VARIABLE, "").strip():
        return long_enough(token, RECEIVER_TOKEN_VARIABLE)
    try:
        block = await load_if_saved(Secret, RECEIVER_TOKEN_SECRET)
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"Prefect cannot be asked for the block secret/{RECEIVER_TOKEN_SECRET} ({redact(error)}): check "
            "PREFECT_API_URL, PREFECT_API_AUTH_STRING and PREFECT_API_KEY, or set "
            f"{RECEIVER_TOKEN_VARIABLE}"
        ) from None
    # not Secret.get(): it turns a secret that looks like JSON into a number
    token = str(block.value.get_secret_value()).strip() if block else ""
    return long_enough(token, f"the block secret/{RECEIVER_TOKEN_SECRET}") if token else None


def long_enough(token: str, where: str) -> str:
    """Return a token that cannot be guessed.

    Args:
        token: the token.
        where: where it comes from.

    Raises:
        ConfigurationError: it is too short.
    """
    if len(token.encode()) < _MIN_BYTES:
        raise ConfigurationError(
            f"the token in {where} is shorter than {_MIN_BYTES} bytes, and may be guessed: unset it and run "
            "`restyle setup`, which generates one, or take what `openssl rand -hex 32` prints"
        )
    return token


def has_token(request: Request, token: str) -> bool:
    """Whether a request has the token: as a Bearer token, as a Basic password, or as ``?token=``."""
    given = [request.query_params.get("token", "").encode("utf-8", "replace")]
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    sent = credentials.strip().encode("latin-1")  # the bytes as they came
    if scheme.lower() == "bearer":
        given.append(sent)
    elif scheme.lower() == "basic":
        with suppress(binascii.Error):
            given.append(base64.b64decode(sent, validate=True).partition(b":")[2])
    return any(hmac.compare_digest(each, token.encode()) for each in given)
