"""The task that stores a prediction's outputs."""

from __future__ import annotations

from prefect import task

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.job import Job, NsfwPolicy, NsfwRules, Restyled, UncheckedPolicy
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.tasks._options import TASK_OPTIONS
from prefect_wavespeed.tasks.runtime import open_runtime


@task(task_run_name="download {job.label}", **TASK_OPTIONS)
async def download(
    job: Job,
    submitted: Submitted,
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
    *,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
) -> Restyled:
    """Download, verify and store the outputs of a completed prediction, and close its job.

    Args:
        job: what was asked for.
        submitted: what `submit` returned.
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: where the outputs go.
        nsfw: what to do with outputs that WaveSpeedAI flags.
        nsfw_unchecked: the same for outputs that were not checked; they are kept if flagged ones are.

    Returns:
        What is stored, and where; no bytes.
    """
    rules = NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked)
    async with open_runtime(wavespeed, output) as runtime:
        return await runtime.download(job, submitted, nsfw=rules)
