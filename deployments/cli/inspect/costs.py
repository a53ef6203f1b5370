"""`restyle costs`: what an output has cost, compared with what was billed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, Since, WaveSpeedBlock
from prefect_wavespeed.deployments.cli.shared.since import parse_since
from prefect_wavespeed.deployments.prefect_runtime import quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.inspect.cost_report import CostReport


def costs(
    *, out: Out, since: Since = None, wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK, as_json: AsJson = False
) -> int:
    """Print the sums and the differences, which are no error."""
    import asyncio

    start = parse_since(since) if since is not None else None
    with quiet_run():
        found = asyncio.run(_costs(out, start, wavespeed))
    if as_json:
        print(found.model_dump_json())
    else:
        from prefect_wavespeed.deployments.cli.views.costs import print_costs

        print_costs(found)
    return 0


async def _costs(out: str, since: datetime | None, wavespeed: str) -> CostReport:
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.inspect.costs import costs

    store = await open_existing_output(out)
    from prefect_wavespeed.blocks.wavespeed import load_wavespeed

    block = await load_wavespeed(wavespeed)
    async with block.get_client() as client:
        return await costs(client, store, since)
