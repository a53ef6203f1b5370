"""The `WaveSpeed` block: an API key, the API that it is for, and the limits of its account."""

from __future__ import annotations

import os
import re
from typing import TypeVar
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from prefect.blocks.system import Secret
from pydantic import Field, HttpUrl, SecretStr

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.api.urls import is_loopback
from prefect_wavespeed.blocks.loading import BlockNotFoundError, load_block
from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.errors import ConfigurationError, redact
from prefect_wavespeed.settings import get_settings

BASE_URL = "https://api.wavespeed.ai"

_Client = TypeVar("_Client", bound=WaveSpeedClient)


class WaveSpeed(CredentialsBlock):
    """Access to the WaveSpeedAI API: an API key kept in a Secret block, and the limits of its account.

    Example:
        Load a saved WaveSpeed block and read the account's balance:
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
        "Access to the WaveSpeedAI API: an API key kept in a Secret block, and the limits of its account."
    )
    _documentation_url = HttpUrl("https://wavespeed.ai/docs")
    _logo_url = HttpUrl("https://wavespeed.ai/logo.webp")

    api_key: Secret = Field(  # type: ignore[type-arg]  # its type is part of its name
        title="API Key", description="Secret block that holds the WaveSpeedAI API key."
    )
    base_url: str = Field(
        default=BASE_URL,
        title="Base URL",
        description="URL of the API: https, or http on this machine. The key is sent nowhere else.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Maximum submissions a minute from one process (see your account's level). Empty: any.",
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Maximum predictions in flight from one process. Empty: any number.",
    )
    concurrency_limit: str | None = Field(
        default=None,
        description="Prefect global concurrency limit through which all runs on this account share its slots "
        "in flight. Empty: each process has max_in_flight to itself.",
    )
    submit_timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that a submission may take. Empty: RESTYLE_SUBMIT_TIMEOUT_SECONDS (60).",
    )
    timeout: float = Field(
        default=30, gt=0, description="Seconds that any other call may take, except uploads and downloads."
    )
    # A secret, since its query may hold a token, and Prefect puts all other fields of a block into events.
    webhook_url: SecretStr | None = Field(
        default=None,
        title="Webhook URL",
        description="Where WaveSpeedAI reports that a prediction has ended: `/wavespeed` of a receiver, at "
        "its public URL (https, or http on this machine). Empty: predictions are polled.",
    )
    traits: ApiTraits = Field(
        default=ApiTraits(),
        title="Traits",
        description="How this API behaves beyond its documentation, as `restyle doctor --live` found out.",
    )

    def get_client(self) -> WaveSpeedClient:
        """A client with this key, for one event loop; close it with ``async with``.

        Raises:
            ConfigurationError: the key or a URL is invalid, or the submit timeout is so long that two runners
                could submit one job.
        """
        return self.get_client_of(WaveSpeedClient)

    def get_client_of(self, kind: type[_Client]) -> _Client:
        """The same as a client of another class.

        Raises:
            ConfigurationError: the key or a URL is invalid, or the submit timeout is so long that two runners
                could submit one job.
        """
        lease = get_settings().lease_seconds
        if self.submit_timeout is not None and self.submit_timeout >= lease / 2:
            raise ConfigurationError(
                f"WaveSpeed block: submit_timeout ({self.submit_timeout:g} s) must be less than half of "
                f"RESTYLE_LEASE_SECONDS ({lease:g} s): otherwise two runners could submit one job"
            )
        self.webhook_url_for(wait=True)
        # not Secret.get(): it parses a key that looks like JSON
        key = str(self.api_key.value.get_secret_value())
        return kind(
            SecretStr(key),
            self.base_url,
            submit_timeout=self.submit_timeout,
            timeout=self.timeout,
            traits=self.traits,
        )

    def webhook_url_for(self, *, wait: bool) -> str | None:
        """The webhook URL to submit with; None if predictions are polled.

        Args:
            wait: whether the run waits for the prediction; if not, the URL says so to the receiver.

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


class ApiMismatchError(ConfigurationError):
    """Environment and saved block name different APIs: a run meant for a free one must not be billed."""


async def load_wavespeed(name: WaveSpeed | str = WAVESPEED_BLOCK) -> WaveSpeed:
    """Load the `WaveSpeed` block of a name; a block is returned as it is.

    Where no block ``default`` is saved, WAVESPEED_API_KEY and WAVESPEED_BASE_URL serve instead.

    Raises:
        BlockNotFoundError: no such block is saved, and no API key is set.
        ApiMismatchError: WAVESPEED_BASE_URL is not the URL of the saved block.
        ConfigurationError: the block cannot be used.
    """
    if isinstance(name, WaveSpeed):
        return name
    name = name.removeprefix("wavespeed/")
    try:
        block = await load_block(
            WaveSpeed, name, if_missing="save it in Prefect's UI, or name another with --wavespeed"
        )
    except BlockNotFoundError:
        if name != WAVESPEED_BLOCK:
            raise
        return _from_environment()
    base_url = os.environ.get("WAVESPEED_BASE_URL", "").rstrip("/")
    if base_url and base_url != block.base_url.rstrip("/"):
        raise ApiMismatchError(
            f"WAVESPEED_BASE_URL names another API than the saved block wavespeed/{name}, which is for "
            f"{redact(block.base_url)}: unset the variable, or name another block"
        )
    return block


def _from_environment() -> WaveSpeed:
    key = os.environ.get("WAVESPEED_API_KEY", "").strip()
    if not key:
        raise BlockNotFoundError(
            "no WaveSpeedAI API key: set WAVESPEED_API_KEY, or save the block with `restyle setup`"
        )
    return WaveSpeed(
        api_key=Secret(value=SecretStr(key)), base_url=os.environ.get("WAVESPEED_BASE_URL") or BASE_URL
    )
