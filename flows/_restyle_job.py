"""One job from start to end, each step a task run."""

from __future__ import annotations

from functools import partial

from prefect_wavespeed.flows._artifacts import publish_restyled
from prefect_wavespeed.job import Job, NsfwPolicy, Restyled
from prefect_wavespeed.steps.run_job import run_job
from prefect_wavespeed.tasks import Runtime, collecting_task_runs, download, poll, submit


async def restyle_job(
    job: Job,
    runtime: Runtime,
    wavespeed: str,
    output: str,
    *,
    max_cost_usd: float | None,
    nsfw: NsfwPolicy,
    retry_failed: bool = False,
) -> Restyled:
    """Run a job's tasks and publish its artifact.

    Args:
        job: what to do.
        runtime: open, for the block and the output that ``wavespeed`` and ``output`` name.
        wavespeed, output, max_cost_usd, nsfw, retry_failed: as for the flow `restyle_image`.
    """
    blocks = {"wavespeed": wavespeed, "output": output}
    with collecting_task_runs():
        restyled = await run_job(
            job,
            partial(submit, **blocks, max_cost_usd=max_cost_usd, nsfw=nsfw, retry_failed=retry_failed),
            partial(poll, **blocks),
            partial(download, **blocks, nsfw=nsfw),
            runtime.slot,
        )
        await publish_restyled(job, restyled, runtime.store)
    return restyled
