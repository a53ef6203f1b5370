"""`restyle receiver`: the process that receives notifications and webhooks."""

from __future__ import annotations

import os

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.options import WaveSpeedBlock
from prefect_wavespeed.deployments.prefect_runtime import all_imported, quieten


def receiver(
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    sqs: str | None = None,
    wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK,
) -> int:
    """Receive until SIGTERM or SIGINT.

    Args:
        host: Address to listen on; 0.0.0.0 for all addresses of this machine.
        port: Port to listen on; 0 picks a free one.
        sqs: URL of an SQS queue to read notifications from, too.
    """
    quieten()
    # senders retry, and must not wait for retries of Prefect's client
    os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "0"
    import asyncio

    from prefect_wavespeed.deployments.receiver.serve import serve

    all_imported()
    asyncio.run(serve(host, port, sqs, wavespeed))
    return 0
