"""`restyle settle`: finish the open jobs of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, WaveSpeedBlock
from prefect_wavespeed.deployments.prefect_runtime import all_imported, quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.settling.summary import Settled


def settle(*, out: Out, wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK, as_json: AsJson = False) -> int:
    """Settle the output and print how many jobs had which outcome."""
    import asyncio

    with quiet_run("what is stored stays stored; run the same command again for the rest"):
        settled = asyncio.run(_settle(out, wavespeed))
    print(settled.model_dump_json() if as_json else _summary(settled))
    return 0


async def _settle(out: str, wavespeed: str) -> Settled:
    from prefect_wavespeed.deployments.cli.shared.access import check_access
    from prefect_wavespeed.deployments.cli.shared.outputs import open_without_prefect
    from prefect_wavespeed.settings import get_settings

    # What cannot work is refused before Prefect is started, which takes seconds.
    get_settings()
    check_access(wavespeed)
    if store := await open_without_prefect(out):
        await store.ensure_conditional_put()
    from prefect_wavespeed.flows import settle

    all_imported()
    # at a terminal the user decides whether to try again
    return await settle.once(wavespeed=wavespeed, output=out)


def _summary(settled: Settled) -> str:
    from prefect_wavespeed.quality.outputs import described

    groups = [f"{count:7}  {what}" for what, count in settled.groups() if count]
    reasons = [reason.line for reason in settled.reasons]
    return "\n".join([*groups, *described(settled.warnings), *reasons]) or "nothing is open"
