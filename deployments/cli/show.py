"""`restyle show`: everything about one job."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out
from prefect_wavespeed.deployments.prefect_runtime import quiet_run
from prefect_wavespeed.errors import ConfigurationError

if TYPE_CHECKING:
    from prefect_wavespeed.api.predictions import Prediction
    from prefect_wavespeed.inspect.job_view import JobView

_MAX_MATCHES = 20
_API_SECONDS = 15.0  # for WaveSpeedAI's word on an open job, which is helpful but optional


def show(job: str, /, *, out: Out, as_json: AsJson = False) -> int:
    """Find the job and print its story.

    Args:
        job: Its key or the first 8 characters of it, a prediction's id, or the source as it was given (or its
            end, such as the file's name).

    Raises:
        ConfigurationError: no job matches, or several do.
    """
    import asyncio

    wanted = job.strip()
    with quiet_run():
        found = asyncio.run(_find(wanted, out))
    if isinstance(found, list):
        raise _ambiguous(wanted, found, as_json=as_json)
    if as_json:
        print(json.dumps(found))
    else:
        from prefect_wavespeed.deployments.cli.views.story_lines import print_story

        print_story(found)
    return 0


async def _find(wanted: str, out: str) -> dict[str, Any] | list[JobView]:
    """Return the story of the job that matches; or all jobs, where several match."""
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.deployments.cli.shared.progress import ListingProgress
    from prefect_wavespeed.deployments.cli.views.story import tell_story
    from prefect_wavespeed.inspect.advice import next_step
    from prefect_wavespeed.inspect.jobs import files, find

    if not wanted:
        raise ConfigurationError("the job is empty: give its key, a prediction's id or its source")
    store = await open_existing_output(out)
    with ListingProgress() as progress:
        found = await find(store, wanted, _MAX_MATCHES, progress.on_page)
    if not found:
        raise ConfigurationError(
            f"{wanted}: no such job in {store.uri}: give a job's key or at least its first 8 characters, a "
            "prediction's id, or the source as it was given; `restyle list` lists all jobs"
        )
    if len(found) > 1:
        return found
    (job,) = found
    stored = await files(store, job) if job.status == "done" else []
    prediction = await _current_prediction(job)
    return tell_story(store, job, stored, prediction) | {"next": next_step(job, out, prediction)}


def _ambiguous(wanted: str, found: list[JobView], *, as_json: bool) -> ConfigurationError:
    """Print the jobs that match, and return the error that asks for a key."""
    more = len(found) > _MAX_MATCHES
    if not as_json:
        from rich.console import Console

        from prefect_wavespeed.deployments.cli.views.jobs import print_job

        console = Console(highlight=False)
        for job in found[:_MAX_MATCHES]:
            print_job(job, console)
    keys = ", ".join(job.key[:16] for job in found[:_MAX_MATCHES])
    count = f"more than {_MAX_MATCHES}" if more else str(len(found))
    return ConfigurationError(
        f"{wanted} matches {count} jobs: give the key of one: {keys}{', …' if more else ''}"
    )


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
