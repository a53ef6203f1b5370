"""One job through its steps, each a task run of its own."""

from __future__ import annotations

from functools import partial

from prefect_wavespeed.flows._artifacts import show_restyled
from prefect_wavespeed.job import Job, NsfwPolicy, Restyled
from prefect_wavespeed.steps.step_set import run_job
from prefect_wavespeed.tasks import download, poll, submit
from prefect_wavespeed.tasks._runtime import Runtime, task_runs_noted


async def restyle_one(
    job: Job,
    used: Runtime,
    wavespeed: str,
    output: str,
    *,
    max_cost_usd: float | None,
    nsfw: NsfwPolicy,
    retry_failed: bool = False,
) -> Restyled:
    """Take a job to its end, and show what it made."""
    with task_runs_noted():
        restyled = await run_job(
            job,
            partial(
                submit,
                wavespeed=wavespeed,
                output=output,
                max_cost_usd=max_cost_usd,
                nsfw=nsfw,
                retry_failed=retry_failed,
            ),
            partial(poll, wavespeed=wavespeed, output=output),
            partial(download, wavespeed=wavespeed, output=output, nsfw=nsfw),
            used.slot,
        )
        await show_restyled(job, restyled, used.store)
    return restyled
