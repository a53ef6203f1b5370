"""`restyle show`: everything about one job."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prefect_wavespeed.deployments.cli.shared.find_job import ambiguous, find_jobs
from prefect_wavespeed.deployments.cli.shared.options import AsJson, JobName, Out
from prefect_wavespeed.deployments.prefect_runtime import quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.api.predictions import Prediction
    from prefect_wavespeed.inspect.job_view import JobView

_API_SECONDS = 15.0  # for WaveSpeedAI's word on an open job, which is helpful but optional


def show(job: JobName, /, *, out: Out, as_json: AsJson = False) -> int:
    """Find the job and print its story.

    Raises:
        ConfigurationError: no job matches, or several do.
    """
    import asyncio

    wanted = job.strip()
    with quiet_run():
        found = asyncio.run(_find(wanted, out))
    if isinstance(found, list):
        raise ambiguous(wanted, found, as_json=as_json)
    if as_json:
        print(json.dumps(found))
    else:
        from prefect_wavespeed.deployments.cli.views.story_lines import print_story

        print_story(found)
    return 0


async def _find(wanted: str, out: str) -> dict[str, Any] | list[JobView]:
    """Return the story of the job that matches; or all jobs, where several match."""
    from prefect_wavespeed.deployments.cli.views.story import tell_story
    from prefect_wavespeed.inspect.advice import next_step
    from prefect_wavespeed.inspect.jobs import files

    store, found = await find_jobs(wanted, out)
    if len(found) > 1:
        return found
    (job,) = found
    stored = await files(store, job) if job.status == "done" else []
    prediction = await _current_prediction(job)
    return tell_story(store, job, stored, prediction) | {"next": next_step(job, out, prediction)}


async def _current_prediction(job: JobView) -> Prediction | None:
    """Ask WaveSpeedAI for an open job's newest prediction; None where that is not possible."""
    record = job.records.get(job.open_job.latest)
    if job.status != "open" or record is None:
        return None
    import asyncio

    from prefect_wavespeed.blocks.wavespeed import load_wavespeed

    with suppress(Exception):  # optional: `restyle doctor` finds out what is wrong
        async with asyncio.timeout(_API_SECONDS), (await load_wavespeed()).get_client() as client:
            if client.base_url == record.base_url:
                return await client.result(record.prediction_id)
    return None
