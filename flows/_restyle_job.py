"""One job from start to end, each step a task run."""

from __future__ import annotations

from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.flows._artifacts import publish_restyled
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.flows._task_steps import TaskSteps
from prefect_wavespeed.job import Job, NsfwRules, Restyled
from prefect_wavespeed.steps.run_job import run_job
from prefect_wavespeed.tasks import Runtime, collecting_task_runs


async def restyle_job(
    job: Job,
    runtime: Runtime,
    wavespeed: WaveSpeedParam,
    output: OutputParam,
    *,
    max_cost_usd: float | None,
    nsfw: NsfwRules,
    retry_failed: bool = False,
) -> Restyled:
    """Run a job's tasks and publish its artifact.

    Args:
        job: what to do.
        runtime: open, for the block and the output that ``wavespeed`` and ``output`` name.
        wavespeed, output, max_cost_usd, retry_failed: as for the flow `restyle_image`.
        nsfw: what to do with flagged and unchecked outputs.
    """
    steps = TaskSteps(wavespeed, output, nsfw, max_cost_usd=max_cost_usd, retry_failed=retry_failed)
    with collecting_task_runs():
        restyled = await run_job(job, steps.submit, steps.poll, steps.download, runtime.slot)
        for warning in restyled.warnings:
            run_log().warning("%s", warning.line)
        await publish_restyled(job, restyled, runtime.store)
    return restyled
