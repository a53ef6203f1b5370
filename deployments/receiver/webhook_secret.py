"""WaveSpeedAI's webhook secret, kept in a Secret block."""

from __future__ import annotations

import asyncio
import logging
import time

from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.blocks.names import WEBHOOK_SECRET
from prefect_wavespeed.blocks.wavespeed import load_wavespeed
from prefect_wavespeed.deployments.saved_blocks import load_if_saved
from prefect_wavespeed.errors import RestyleError, UnavailableError, redact

_MIN_FETCH_SECONDS = 60.0  # between two fetches
_FAILED_SECONDS = 1.0  # in which a failure to read or fetch it is not repeated

_log = logging.getLogger(__name__)


class WebhookSecret:
    """The secret: read from its block, fetched where the block is missing or out of date.

    Args:
        wavespeed: name of the `WaveSpeed` block whose account it belongs to.
    """

    def __init__(self, wavespeed: str) -> None:
        self._wavespeed = wavespeed
        self._secret: str | None = None
        self._failure: UnavailableError | None = None
        self._failed_at = 0.0
        self._fetched_at: float | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> str:
        """Return the secret.

        Raises:
            UnavailableError: it can neither be read nor fetched now.
        """
        if self._secret is not None:  # without the lock, which a refresh may hold for a while
            return self._secret
        async with self._lock:
            if self._failure and time.monotonic() - self._failed_at < _FAILED_SECONDS:
                raise self._failure  # Prefect is not asked once for each webhook of a flood
            if self._secret is None:
                try:
                    self._secret = await _read() or await self._fetch()
                except Exception as error:
                    self._failure = error if isinstance(error, UnavailableError) else _unavailable(error)
                    self._failed_at = time.monotonic()
                    raise self._failure from None
            return self._secret

    async def refresh(self, old: str) -> str | None:
        """Return a secret other than the old one; None if there is none. Asks at most once a minute.

        Raises:
            UnavailableError: it is being asked for by another webhook: a flood of forged ones does not wait.
        """
        if self._lock.locked():
            raise UnavailableError("WaveSpeedAI is being asked for the webhook secret")
        async with self._lock:
            if self._secret == old and not self._fetched_recently:
                try:
                    self._secret = await self._fetch()
                except UnavailableError as error:
                    _log.warning("%s", error)
            return self._secret if self._secret != old else None

    @property
    def _fetched_recently(self) -> bool:
        return self._fetched_at is not None and time.monotonic() - self._fetched_at < _MIN_FETCH_SECONDS

    async def _fetch(self) -> str:
        if self._fetched_recently:
            raise UnavailableError("WaveSpeedAI was asked for the webhook secret less than a minute ago")
        self._fetched_at = time.monotonic()
        try:
            block = await load_wavespeed(self._wavespeed)
            async with block.get_client() as client:
                secret = (await client.webhook_secret()).get_secret_value()
            await Secret(value=SecretStr(secret)).save(WEBHOOK_SECRET, overwrite=True)
        except Exception as error:
            raise _unavailable(error) from None
        _log.info("webhook secret fetched, kept in secret/%s", WEBHOOK_SECRET)
        return secret


async def _read() -> str | None:
    block = await load_if_saved(Secret, WEBHOOK_SECRET)
    # not Secret.get(): it turns a secret that looks like JSON into a number
    return (str(block.value.get_secret_value()).strip() if block else "") or None


def _unavailable(error: Exception) -> UnavailableError:
    reason = error.message if isinstance(error, RestyleError) else f"{type(error).__name__}: {redact(error)}"
    return UnavailableError(f"the webhook secret is not available: {reason}")
