"""One job from start to end, each step a task run."""

from __future__ import annotations

from functools import partial

from prefect import get_run_logger

from prefect_wavespeed.flows._artifacts import publish_restyled
from prefect_wavespeed.job import Job, NsfwRules, Restyled
from prefect_wavespeed.steps.run_job import run_job
from prefect_wavespeed.tasks import Runtime, collecting_task_runs, download, poll, submit


async def restyle_job(
    job: Job,
    runtime: Runtime,
    wavespeed: str,
    output: str,
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
    blocks = {"wavespeed": wavespeed, "output": output}
    unsafe = {"nsfw": nsfw.flagged, "nsfw_unchecked": nsfw.unchecked}
    with collecting_task_runs():
        restyled = await run_job(
            job,
            partial(submit, **blocks, **unsafe, max_cost_usd=max_cost_usd, retry_failed=retry_failed),
            partial(poll, **blocks),
            partial(download, **blocks, **unsafe),
            runtime.slot,
        )
        for warning in restyled.warnings:
            get_run_logger().warning("%s", warning.line)
        await publish_restyled(job, restyled, runtime.store)
    return restyled
