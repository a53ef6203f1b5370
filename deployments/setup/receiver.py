"""The token by which the receiver knows who may tell it of objects."""

from __future__ import annotations

import os
import secrets

from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET
from prefect_wavespeed.deployments.receiver.secrets import TOKEN_VARIABLE
from prefect_wavespeed.deployments.setup._load import load
from prefect_wavespeed.deployments.setup._report import say


async def set_up_receiver() -> None:
    """Save RESTYLE_RECEIVER_TOKEN as a Secret block; where it is not set, make one up, once."""
    token, name = os.environ.get(TOKEN_VARIABLE, "").strip(), RECEIVER_TOKEN_SECRET
    there = await load(Secret, name)
    if there and token in ("", there.value.get_secret_value()):
        say("found", f"secret/{name}", "left alone")
        return
    await Secret(value=SecretStr(token or secrets.token_urlsafe(32))).save(name, overwrite=True)
    source = f"from {TOKEN_VARIABLE}" if token else "made up; docs/deploying.md tells how to read it"
    say("updated" if there else "made", f"secret/{name}", source)
