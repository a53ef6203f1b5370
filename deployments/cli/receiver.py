"""`restyle receiver`: the process that receives notifications and webhooks."""

from __future__ import annotations

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.options import WaveSpeedBlock


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
    from prefect_wavespeed.deployments.receiver.serve import run

    return run(host, port, sqs, wavespeed)
