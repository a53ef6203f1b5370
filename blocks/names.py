"""The names of what flows, deployments and commands find in Prefect, each spelled here once.

`deployments/prefect.yaml` has to repeat some of them; `tests/test_blocks.py` compares the two.
"""

from __future__ import annotations

from typing import Literal

from prefect_wavespeed.storage.output_name import BUCKET_BLOCK_TYPE, DIRECTORY_BLOCK_TYPE

WAVESPEED_BLOCK = "default"
"""The `WaveSpeed` block that a run uses unless it names another."""
API_KEY_SECRET = "wavespeed-api-key"  # noqa: S105
"""Secret block with the API key, which the `WaveSpeed` block refers to."""
RECEIVER_TOKEN_SECRET = "restyle-receiver-token"  # noqa: S105
"""Secret block with the token that senders of object events give the receiver."""
RECEIVER_TOKEN_VARIABLE = "RESTYLE_RECEIVER_TOKEN"  # noqa: S105
"""Environment variable with the same token."""
WEBHOOK_SECRET = "wavespeed-webhook-secret"  # noqa: S105
"""Secret block with the account's webhook secret, kept by the receiver."""

S3_BLOCK_PREFIX = f"{BUCKET_BLOCK_TYPE}/"
LOCAL_BLOCK_PREFIX = f"{DIRECTORY_BLOCK_TYPE}/"
"""What an output begins with that names a saved block, instead of a directory or `s3://bucket/prefix`."""
OUTPUT_BLOCK = "restyle-output"
"""Name of the storage block that `restyle setup --out` saves, and of its credentials."""
BUCKET_OUTPUT = f"{S3_BLOCK_PREFIX}{OUTPUT_BLOCK}"
DIRECTORY_OUTPUT = f"{LOCAL_BLOCK_PREFIX}{OUTPUT_BLOCK}"
DEFAULT_OUTPUT = BUCKET_OUTPUT
"""Where pictures go unless a run says otherwise."""

IN_FLIGHT_LIMIT = "wavespeed-in-flight"
"""Global concurrency limit on predictions in flight, shared by all runs on an account."""

WORK_POOL = "restyle"
OBJECT_QUEUE = "restyle-object"
"""Work queue that bounds how many runs of `restyle-object` there are at once."""

IMAGE_DEPLOYMENT = "restyle-image"
BATCH_DEPLOYMENT = "restyle-batch"
OBJECT_DEPLOYMENT = "restyle-object"
SETTLE_DEPLOYMENT = "settle"
DEPLOYMENTS = (IMAGE_DEPLOYMENT, BATCH_DEPLOYMENT, SETTLE_DEPLOYMENT, OBJECT_DEPLOYMENT)
"""Deployments; each has the name of its flow."""
TAG = "restyle"
"""Tag of the deployments, by which automations recognise their runs."""

Setting = Literal[
    "work_pool",
    "image",
    "watch",
    "watching",
    "output",
    "schedule",
    "manifest",
    "scheduled",
    "max_cost_usd",
]
"""Settings of the deployments."""


def variable(setting: Setting) -> str:
    """The Prefect variable that holds a setting of the deployments."""
    return f"restyle_{setting}"


def used_output(digest: str) -> str:
    """The Prefect variable that tells that a directory is an output, by a digest of its path."""
    return f"restyle_used_{digest}"


def is_block(output: str) -> bool:
    """Whether an output names a saved block, which `blocks.output` opens; otherwise `open_store` does."""
    return output.startswith((S3_BLOCK_PREFIX, LOCAL_BLOCK_PREFIX))
