"""`restyle image`: one image through the flow."""

from __future__ import annotations

import asyncio
from math import isfinite
from typing import Annotated

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.blocks.names import WAVESPEED_BLOCK
from prefect_wavespeed.deployments.cli.shared.flags import INLINE, SWITCH, PictureFlags
from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, WaveSpeedBlock
from prefect_wavespeed.deployments.prefect_runtime import quiet_run
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.job import NsfwPolicy, Restyled, UncheckedPolicy

_PICTURE = PictureFlags()


def image(
    source: str,
    /,
    *,
    out: Out,
    picture: Annotated[PictureFlags, INLINE] = _PICTURE,
    variant: int = 0,
    max_cost_usd: float | None = None,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
    retry_failed: Annotated[bool, SWITCH] = False,
    wavespeed: WaveSpeedBlock = WAVESPEED_BLOCK,
    as_json: AsJson = False,
) -> int:
    """Restyle one image. Run again, the same command returns the stored pictures and bills nothing.

    Args:
        source: https URL, s3://bucket/key, or the path of a picture.
        picture: Parameters of the model.
        variant: Another picture of the same source: 0, 1, 2 and so on.
        max_cost_usd: Refuse when the price is higher, in USD.
        nsfw: What to do with pictures that are flagged as unsafe for work.
        nsfw_unchecked: The same for pictures that were not checked; they are kept if --nsfw is keep.
        retry_failed: Try again even if the job has failed for good.
    """

    async def restyle() -> Restyled:
        params = ReduxParams(**picture.model_dump())
        _check_max_cost(max_cost_usd)
        await _check(source, params, variant, out, wavespeed)
        from prefect_wavespeed.flows import restyle_image

        # at a terminal the user decides whether to try again
        return await restyle_image.once(
            source,
            params,
            variant=variant,
            wavespeed=wavespeed,
            output=out,
            max_cost_usd=max_cost_usd,
            nsfw=nsfw,
            nsfw_unchecked=nsfw_unchecked,
            retry_failed=retry_failed,
        )

    with quiet_run("the job stays open; run the same command again to continue it, nothing is billed twice"):
        restyled = asyncio.run(restyle())
    print(restyled.model_dump_json() if as_json else _summary(restyled))
    return 0


def _check_max_cost(limit: float | None) -> None:
    if limit is not None and not (isfinite(limit) and limit > 0):
        raise ConfigurationError(f"--max-cost-usd {limit:g}: give an amount above 0, in USD")


async def _check(source: str, params: ReduxParams, variant: int, out: str, wavespeed: str) -> None:
    """Refuse what cannot work before Prefect is started, which takes seconds."""
    from prefect_wavespeed.deployments.cli.shared.access import check_access
    from prefect_wavespeed.deployments.cli.shared.outputs import new_output
    from prefect_wavespeed.settings import get_settings
    from prefect_wavespeed.sources.files import read_file
    from prefect_wavespeed.steps.run_job import make_job

    get_settings()
    check_access(wavespeed)
    async with new_output(out) as store:
        if store:
            await make_job(source, params, variant, store)
            await store.ensure_conditional_put()
        elif source and "://" not in source:  # only the flow can open a block, with Prefect
            await read_file(source)


def _summary(restyled: Restyled) -> str:
    pictures = [
        f"{output.uri}  {output.width}×{output.height}, {(output.bytes or 0) / 1000:.0f} kB"
        + (", flagged as unsafe for work" if output.nsfw else "")
        if output.uri
        else "dropped: flagged as unsafe for work"
        for output in restyled.outputs
    ]
    cost = "cost unknown" if restyled.cost_usd is None else f"{restyled.cost_usd:g} USD"
    if restyled.cached:
        cost = "nothing billed: stored by an earlier run"
    details = f"{cost}, seed {restyled.seed}, prediction {restyled.prediction_id}"
    warnings = [f"warning: {warning.line}" for warning in restyled.warnings]
    return "\n".join([*pictures, *warnings, details, f"record: {restyled.metadata_uri}"])
