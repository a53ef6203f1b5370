"""`restyle setup`: what deployed flows need in Prefect."""

from __future__ import annotations

from pathlib import Path

from prefect_wavespeed.deployments.prefect_runtime import quieten
from prefect_wavespeed.deployments.setup.tiers import Tier


def setup(
    *,
    out: str | None = None,
    watch: str | None = None,
    tier: Tier | None = None,
) -> int:
    """Create what is missing, and print what was found, created, updated or skipped.

    Args:
        out: s3://bucket/prefix (block s3-bucket/restyle-output) or a directory (block
            local-file-system/restyle-output).
        watch: s3://bucket/prefix/ whose new objects are restyled as they arrive, and every night those that
            were missed.
        tier: Your account's level. It sets submissions per minute and predictions in flight in the WaveSpeed
            block, and the global concurrency limit that all runs share.
    """
    quieten()
    import asyncio

    from prefect_wavespeed.deployments.setup.set_up import set_up

    if asyncio.run(set_up(out=out, watch=watch, tier=tier)):
        where = (
            ""
            if Path("prefect.yaml").exists()
            else "  (where your prefect.yaml is; `restyle init` writes one)"
        )
        print(f"now run  prefect --no-prompt deploy --all{where}")
    return 0
