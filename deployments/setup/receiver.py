"""The token that senders of notifications show to the receiver."""

from __future__ import annotations

import os
import secrets
from typing import Any

from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET, RECEIVER_TOKEN_VARIABLE
from prefect_wavespeed.deployments.receiver.token import long_enough
from prefect_wavespeed.deployments.saved_blocks import load_if_saved
from prefect_wavespeed.deployments.setup.report import report


async def set_up_receiver() -> None:
    """Save RESTYLE_RECEIVER_TOKEN as a Secret block; where it is not set and none is saved, generate one.

    Raises:
        ConfigurationError: it is too short.
    """
    token, block = os.environ.get(RECEIVER_TOKEN_VARIABLE, "").strip(), f"secret/{RECEIVER_TOKEN_SECRET}"
    if token:
        long_enough(token, RECEIVER_TOKEN_VARIABLE)
    saved = await load_if_saved(Secret, RECEIVER_TOKEN_SECRET)
    if saved and token in ("", saved.value.get_secret_value()):
        report("found", block, "unchanged")
        return
    secret: Secret[Any] = Secret(value=SecretStr(token or secrets.token_urlsafe(32)))
    await secret.save(RECEIVER_TOKEN_SECRET, overwrite=True)
    source = (
        f"from {RECEIVER_TOKEN_VARIABLE}" if token else "generated; docs/deploying.md says how to read it"
    )
    report("updated" if saved else "created", block, source)
