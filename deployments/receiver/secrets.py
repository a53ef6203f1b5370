"""The receiver's two secrets, each in a Secret block: the token for senders, WaveSpeedAI's webhook secret."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import os
import time
from contextlib import suppress
from typing import Any

import httpx
from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr
from starlette.requests import Request

from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET, WEBHOOK_SECRET
from prefect_wavespeed.blocks.wavespeed import load_wavespeed
from prefect_wavespeed.errors import ConfigurationError, RestyleError, UnavailableError, redact

TOKEN_VARIABLE = "RESTYLE_RECEIVER_TOKEN"  # noqa: S105

_FETCH_SECONDS = 60.0  # least time between two fetches

_log = logging.getLogger(__name__)


async def load_token() -> str | None:
    """The token of RESTYLE_RECEIVER_TOKEN, else of its Secret block; None where neither is there.

    Raises:
        ConfigurationError: Prefect cannot be asked for the block.
    """
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return token
    try:
        return await _load(RECEIVER_TOKEN_SECRET)
    except httpx.HTTPError as error:
        raise ConfigurationError(
            f"Prefect cannot be asked for the block secret/{RECEIVER_TOKEN_SECRET} ({redact(error)}): check "
            f"PREFECT_API_URL, PREFECT_API_AUTH_STRING and PREFECT_API_KEY, or set {TOKEN_VARIABLE}"
        ) from None


def bears_token(request: Request, token: str) -> bool:
    """Whether a request bears the token: as a Bearer token, as a Basic password, or as ``?token=``."""
    given = [request.query_params.get("token", "").encode("utf-8", "replace")]
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    sent = credentials.strip().encode("latin-1")  # as it came
    if scheme.lower() == "bearer":
        given.append(sent)
    elif scheme.lower() == "basic":
        with suppress(binascii.Error):
            given.append(base64.b64decode(sent, validate=True).partition(b":")[2])
    return any(hmac.compare_digest(each, token.encode()) for each in given)


class WebhookSecret:
    """WaveSpeedAI's webhook secret: kept in its Secret block, fetched where that is missing or out of date.

    Args:
        wavespeed: name of the `WaveSpeed` block whose key it belongs to.
    """

    def __init__(self, wavespeed: str) -> None:
        self._wavespeed = wavespeed
        self._secret: str | None = None
        self._fetched: float | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> str:
        """The secret.

        Raises:
            UnavailableError: it cannot be had now; says why.
        """
        if self._secret is not None:  # also while a forged webhook has it asked for anew
            return self._secret
        async with self._lock:
            if self._secret is None:
                try:
                    self._secret = await _load(WEBHOOK_SECRET) or await self._fetch()
                except UnavailableError:
                    raise
                except Exception as error:
                    raise _unavailable(error) from None
            return self._secret

    async def renewed(self, old: str) -> str | None:
        """Another secret than the old one, where WaveSpeedAI has one; asked at most once a minute."""
        async with self._lock:
            if self._secret == old and not self._asked_lately:
                try:
                    self._secret = await self._fetch()
                except UnavailableError as error:
                    _log.warning("%s", error)
            return self._secret if self._secret != old else None

    @property
    def _asked_lately(self) -> bool:
        return self._fetched is not None and time.monotonic() - self._fetched < _FETCH_SECONDS

    async def _fetch(self) -> str:
        if self._asked_lately:
            raise UnavailableError("WaveSpeedAI was asked for the webhook secret less than a minute ago")
        self._fetched = time.monotonic()
        try:
            block = await load_wavespeed(self._wavespeed)
            async with block.get_client() as client:
                secret = (await client.webhook_secret()).get_secret_value()
            await Secret(value=SecretStr(secret)).save(WEBHOOK_SECRET, overwrite=True)
        except Exception as error:
            raise _unavailable(error) from None
        _log.info("webhook secret fetched, kept in secret/%s", WEBHOOK_SECRET)
        return secret


async def _load(name: str) -> str | None:
    try:
        block: Secret[Any] = await Secret.aload(name)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise
    # not Secret.get(): it reads a secret that looks like JSON as a number
    return str(block.value.get_secret_value()).strip() or None


def _unavailable(error: Exception) -> UnavailableError:
    why = error.message if isinstance(error, RestyleError) else f"{type(error).__name__}: {redact(error)}"
    return UnavailableError(f"the webhook secret cannot be had: {why}")
