"""`restyle doctor --live`: asked with the key of the block, which then keeps what recovery relies on."""

from __future__ import annotations

from collections.abc import Callable

from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.wavespeed import WaveSpeed, load_wavespeed
from prefect_wavespeed.deployments.prefect_errors import as_restyle_error
from prefect_wavespeed.inspect.live.examination import Examination
from prefect_wavespeed.inspect.live.later import resume
from prefect_wavespeed.inspect.live.probing_client import ProbingClient
from prefect_wavespeed.inspect.live.report import LiveReport, report_path


async def examine_live(
    out: str, wavespeed: str, limit_usd: float, say: Callable[[str], None]
) -> tuple[LiveReport, list[str]]:
    """Ask everything that can be asked at once.

    Args:
        out: the output.
        wavespeed: name of the `WaveSpeed` block.
        limit_usd: what all pictures together may cost.
        say: called with one line about what it will cost, before anything is spent.

    Returns:
        What was found out, and where it is kept, a line each.
    """
    block, store = await load_wavespeed(wavespeed), await open_output(out)
    async with block.get_client_of(ProbingClient) as client:
        report = await Examination(client, store, limit_usd, say).run()
    return report, [await _keep(block, report.traits), f"report: {store.uri_of(report_path(report.api))}"]


async def resume_live(out: str, wavespeed: str) -> tuple[LiveReport, list[str]]:
    """Fill in what the billing says. Nothing is submitted. As `examine_live` otherwise."""
    block, store = await load_wavespeed(wavespeed), await open_output(out)
    async with block.get_client_of(ProbingClient) as client:
        report = await resume(client, store)
    return report, [await _keep(block, report.traits), f"report: {store.uri_of(report_path(report.api))}"]


async def _keep(block: WaveSpeed, traits: ApiTraits) -> str:
    """Save what recovery relies on in the block, and say so."""
    name = block._block_document_name
    if not name:
        return (
            "recovery cannot use it yet: no WaveSpeed block is saved; `restyle setup` saves one, "
            "and the same command again, which bills nothing, adds it"
        )
    known = block.traits.updated(traits)
    if known == block.traits:
        return f"recovery uses it: wavespeed/{name} has it already"
    try:
        await block.model_copy(update={"traits": known}).save(name, overwrite=True)
    except Exception as error:
        return (
            f"recovery cannot use it yet: wavespeed/{name} was not saved: {as_restyle_error(error).message}"
        )
    return f"recovery uses it: saved in wavespeed/{name}"
