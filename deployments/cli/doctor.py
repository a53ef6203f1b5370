"""`restyle doctor`: check what a run needs. It spends nothing and leaves nothing behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.options import AsJson, WaveSpeedBlock
from prefect_wavespeed.deployments.prefect_runtime import quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.inspect.checks import Check


def doctor(
    *, out: str | None = None, wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK, as_json: AsJson = False
) -> int:
    """Run the checks and print their results.

    Args:
        out: s3://bucket/prefix, a directory, s3-bucket/NAME or local-file-system/NAME (saved blocks). By
            default the output that deployments use.
    """
    with quiet_run():
        checks = _run_checks(out, wavespeed)
    healthy = all(check.status != "error" for check in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": [check.model_dump() for check in checks]}))
    else:
        from prefect_wavespeed.deployments.cli.views.checks import print_checks

        print_checks(checks)
    return 0 if healthy else 1


def _run_checks(out: str | None, wavespeed: str) -> list[Check]:
    import asyncio
    from contextlib import nullcontext

    from rich.console import Console

    from prefect_wavespeed.deployments.doctor.examine import examine

    stderr = Console(stderr=True)
    with stderr.status("checking") if stderr.is_terminal else nullcontext():
        return asyncio.run(examine(out, wavespeed))
