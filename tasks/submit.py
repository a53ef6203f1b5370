"""The task that submits a job."""

from __future__ import annotations

from prefect import task

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.job import Job, NsfwPolicy, NsfwRules, UncheckedPolicy
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.tasks._options import TASK_OPTIONS
from prefect_wavespeed.tasks.runtime import open_runtime


@task(task_run_name="submit {job.label}", **TASK_OPTIONS)
async def submit(
    job: Job,
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
    *,
    max_cost_usd: float | None = None,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
    retry_failed: bool = False,
    after: int = 0,
) -> Submitted:
    """Submit a job once, however often this task runs.

    Args:
        job: what to do, from `prefect_wavespeed.make_job`.
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: block, ``s3://bucket/prefix`` or directory where the outputs go.
        max_cost_usd: refuse if the price is higher, in USD.
        nsfw: what will be done with outputs that WaveSpeedAI flags.
        nsfw_unchecked: the same for outputs that were not checked; they are kept if flagged ones are.
        retry_failed: submit it again if it has failed for good before.
        after: number of the attempt that is known to have failed; 0 for none.

    Returns:
        The prediction to poll; or what is stored, if the job is done already.
    """
    async with open_runtime(wavespeed, output) as runtime:
        return await runtime.submit(
            job,
            max_cost_usd=max_cost_usd,
            nsfw=NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked),
            retry_failed=retry_failed,
            after=after,
        )
