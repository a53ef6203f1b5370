"""The `WaveSpeed` block: an API key, where it may be sent, and how fast."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from prefect.blocks.system import Secret
from prefect.exceptions import ObjectNotFound
from pydantic import Field, HttpUrl, SecretStr, ValidationError

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.urls import is_loopback
from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.settings import get_settings

BASE_URL = "https://api.wavespeed.ai"


class WaveSpeed(CredentialsBlock):
    """Access to the WaveSpeedAI API: an API key kept in a Secret block, and the limits to keep to.

    Example:
        Load a stored WaveSpeed block and ask for the balance:
        ```python
        from prefect_wavespeed.blocks import WaveSpeed

        wavespeed = WaveSpeed.load("BLOCK_NAME")
        async with wavespeed.get_client() as client:
            print(await client.balance())
        ```
    """

    _block_type_name = "WaveSpeed"
    _block_type_slug = "wavespeed"
    _description = (
        "Access to the WaveSpeedAI API: an API key kept in a Secret block, and the limits to keep to."
    )
    _documentation_url = HttpUrl("https://wavespeed.ai/docs")
    _logo_url = HttpUrl("https://wavespeed.ai/logo.webp")

    api_key: Secret = Field(  # type: ignore[type-arg]  # its type is part of its name
        title="API Key", description="Secret block that holds the WaveSpeedAI API key."
    )
    base_url: str = Field(
        default=BASE_URL,
        title="Base URL",
        description="Where the API is: https, or http on this machine. The key is sent nowhere else.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most submissions a minute from one process (see your account's level). Empty: no limit.",
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Most predictions that one process has under way at once. Empty for no limit.",
    )
    concurrency_limit: str | None = Field(
        default=None,
        description="Prefect global concurrency limit by which all runs on this account share its places in "
        "flight. Empty: every process has max_in_flight to itself.",
    )
    submit_timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that a submission may take. Empty takes RESTYLE_SUBMIT_TIMEOUT_SECONDS (60).",
    )
    timeout: float = Field(
        default=30, gt=0, description="Seconds that any other call may take, uploads and downloads aside."
    )
    # Its query may hold a token, and Prefect tells what a block holds, secrets aside, in an event.
    webhook_url: SecretStr | None = Field(
        default=None,
        title="Webhook URL",
        description="Where WaveSpeedAI tells that a prediction has ended: `/wavespeed` of a receiver, "
        "as it is reached from outside (https, or http on this machine). Empty: predictions are polled.",
    )

    def get_client(self) -> WaveSpeedClient:
        """A client with this key. Use it in one event loop, and close it with ``async with``.

        Raises:
            ConfigurationError: the key or a URL cannot be used, or the submit timeout is so long that two
                runners could submit one job.
        """
        lease = get_settings().lease_seconds
        if self.submit_timeout is not None and self.submit_timeout >= lease / 2:
            raise ConfigurationError(
                f"WaveSpeed block: submit_timeout ({self.submit_timeout:g} s) must be less than half of "
                f"RESTYLE_LEASE_SECONDS ({lease:g} s): otherwise two runners could submit one job"
            )
        self.webhook(wait=True)
        # not Secret.get(): it reads a key that looks like JSON as a number
        key = str(self.api_key.value.get_secret_value())
        return WaveSpeedClient(
            SecretStr(key), self.base_url, submit_timeout=self.submit_timeout, timeout=self.timeout
        )

    def webhook(self, *, wait: bool) -> str | None:
        """The URL to submit with; None where predictions are polled.

        Args:
            wait: whether the run waits for the prediction; otherwise the receiver is told so.

        Raises:
            ConfigurationError: webhook_url is not https, or http on loopback.
        """
        url = self.webhook_url.get_secret_value().strip() if self.webhook_url else ""
        if not url:
            return None
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            host = ""
        encrypted = host and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
        if not encrypted or "@" in parts.netloc or parts.fragment:
            raise ConfigurationError(
                "WaveSpeed block: webhook_url must be https, or http on loopback, and hold no user, password "
                f"or fragment: not {redact(re.sub('//[^/]*@', '//…@', url.partition('#')[0]))}"
            )
        return url if wait else f"{url}{'&' if parts.query else '?'}wait=no"


class OtherApiError(ConfigurationError):
    """The environment and a saved block name two APIs: whoever means the one that is free must not pay."""


async def load_wavespeed(name: str = WAVESPEED_BLOCK) -> WaveSpeed:
    """The saved `WaveSpeed` block of this name.

    Where no block ``default`` is saved, WAVESPEED_API_KEY and WAVESPEED_BASE_URL serve.

    Raises:
        ConfigurationError: there is no such block, or it cannot be read.
        OtherApiError: WAVESPEED_BASE_URL names another API than the block.
    """
    name = name.removeprefix("wavespeed/")
    wanted = os.environ.get("WAVESPEED_BASE_URL", "").rstrip("/")
    try:
        saved: WaveSpeed = await WaveSpeed.aload(name)
        if wanted and wanted != saved.base_url.rstrip("/"):
            raise OtherApiError(
                f"WAVESPEED_BASE_URL names another API than the saved block wavespeed/{name}, which is for "
                f"{redact(saved.base_url)}: unset the variable, or name another block"
            )
        return saved
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise ConfigurationError(
            f"block wavespeed/{name}: {fields} cannot be used: save the block again"
        ) from None
    except (ValueError, RuntimeError) as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise ConfigurationError(f"block wavespeed/{name} cannot be loaded: {redact(error)}") from None
    if name != WAVESPEED_BLOCK:
        raise ConfigurationError(
            f"no block wavespeed/{name} is saved: make it in Prefect's UI, or name another with --wavespeed"
        )
    key = os.environ.get("WAVESPEED_API_KEY", "").strip()
    if not key:
        raise ConfigurationError(
            "no WaveSpeedAI API key: set WAVESPEED_API_KEY, or save the block with `restyle setup`"
        )
    return WaveSpeed(
        api_key=Secret(value=SecretStr(key)), base_url=os.environ.get("WAVESPEED_BASE_URL") or BASE_URL
    )
