"""`restyle image`: one image through the flow, told in a few lines or as JSON."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import isfinite

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.deployments.cli._prefect import quiet_run
from prefect_wavespeed.errors import ConfigurationError
from prefect_wavespeed.job import NsfwPolicy, Restyled
from prefect_wavespeed.settings import get_settings


@dataclass(frozen=True)
class Options:
    """What the command was given."""

    source: str
    out: str
    params: ReduxParams
    variant: int
    max_cost_usd: float | None
    nsfw: NsfwPolicy
    retry_failed: bool
    wavespeed: str


def run(options: Options, *, as_json: bool) -> int:
    """Restyle the image and print what came of it.

    Returns:
        The exit status: 0.

    Raises:
        BaseException: what went wrong, to be told by the caller.
    """
    with quiet_run(
        "the job stays open; run the same command again to take it up where it is, nothing is billed twice"
    ):
        restyled = asyncio.run(_restyle(options))
    print(restyled.model_dump_json() if as_json else _lines(restyled))
    return 0


async def _restyle(options: Options) -> Restyled:
    await _check(options)
    from prefect_wavespeed.flows import restyle_image

    # whoever sits at the terminal decides whether to go again
    return await restyle_image.with_options(retries=0)(
        options.source,
        options.params,
        variant=options.variant,
        wavespeed=options.wavespeed,
        output=options.out,
        max_cost_usd=options.max_cost_usd,
        nsfw=options.nsfw,
        retry_failed=options.retry_failed,
    )


async def _check(options: Options) -> None:
    """Refuse what cannot work before Prefect is started, which takes seconds."""
    source = options.source
    get_settings()
    limit = options.max_cost_usd
    if limit is not None and not (isfinite(limit) and limit > 0):
        raise ConfigurationError(f"--max-cost-usd {limit:g}: give an amount above 0, in USD")
    from prefect_wavespeed.sources.files import read_file
    from prefect_wavespeed.steps.step_set import make_job
    from prefect_wavespeed.storage.open_store import is_block, open_store

    if is_block(options.out):  # a block: the flow asks Prefect for it
        if source and "://" not in source:
            await asyncio.to_thread(read_file, source)
        return

    store = open_store(options.out)
    await make_job(source, options.params, options.variant, store)
    await store.ensure_conditional_put()


def _lines(restyled: Restyled) -> str:
    pictures = [
        f"{output.uri}  {output.width}×{output.height}, {(output.bytes or 0) / 1000:.0f} kB"
        + (", flagged as unsafe for work" if output.nsfw else "")
        if output.uri
        else "dropped: flagged as unsafe for work"
        for output in restyled.outputs
    ]
    cost = "cost not known" if restyled.cost_usd is None else f"{restyled.cost_usd:g} USD"
    if restyled.cached:
        cost = "nothing billed: stored by an earlier run"
    facts = f"{cost}, seed {restyled.seed}, prediction {restyled.prediction_id}"
    return "\n".join([*pictures, facts, f"record: {restyled.metadata_uri}"])
