"""The steps of a job, each a task run of its own; and one job from start to end."""

from __future__ import annotations

from typing import TypeVar, cast

from prefect.utilities.annotations import opaque

from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.flows._artifacts import publish_restyled
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.job import Job, NsfwRules, Restyled
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.steps.run_job import run_job
from prefect_wavespeed.tasks import Runtime, collecting_task_runs, download, poll, submit

_T = TypeVar("_T")


class TaskSteps:
    """Tasks for the jobs of one block and output.

    Args:
        wavespeed, output, max_cost_usd, retry_failed: as for the flow `restyle_image`.
        nsfw: what to do with flagged and unchecked outputs.
    """

    def __init__(
        self,
        wavespeed: WaveSpeedParam,
        output: OutputParam,
        nsfw: NsfwRules,
        *,
        max_cost_usd: float | None = None,
        retry_failed: bool = False,
    ) -> None:
        self._blocks = (_whole(wavespeed), _whole(output))
        self._nsfw = nsfw
        self._max_cost_usd = max_cost_usd
        self._retry_failed = retry_failed

    async def submit(self, job: Job, *, after: int) -> Submitted:
        """Run the task `submit`."""
        return await submit(
            _whole(job),
            *self._blocks,
            max_cost_usd=self._max_cost_usd,
            nsfw=self._nsfw.flagged,
            nsfw_unchecked=self._nsfw.unchecked,
            retry_failed=self._retry_failed,
            after=after,
        )

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """Run the task `poll`."""
        return await poll(_whole(job), _whole(submitted), *self._blocks)

    async def download(self, job: Job, submitted: Submitted) -> Restyled:
        """Run the task `download`."""
        return await download(
            _whole(job),
            _whole(submitted),
            *self._blocks,
            nsfw=self._nsfw.flagged,
            nsfw_unchecked=self._nsfw.unchecked,
        )


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


def _whole(value: _T) -> _T:
    """Give a task a value that Prefect does not look into.

    Where a part of the value is the same object as a part of what another task returned, Prefect takes that
    task for an input. Two jobs may share a number or a string, and would be joined in the run graph.
    """
    return cast("_T", opaque(value))
