"""Finding the job that a person means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_wavespeed.errors import ConfigurationError

if TYPE_CHECKING:
    from prefect_wavespeed.inspect.job_view import JobView
    from prefect_wavespeed.storage.store import Store

_MAX_MATCHES = 20


async def find_jobs(wanted: str, out: str) -> tuple[Store, list[JobView]]:
    """Open the output and return the jobs that match: one, or several, which is for the caller to refuse.

    Raises:
        ConfigurationError: none matches.
    """
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.deployments.cli.shared.progress import ListingProgress
    from prefect_wavespeed.inspect.jobs import find

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
    return store, found


def ambiguous(wanted: str, found: list[JobView], *, as_json: bool) -> ConfigurationError:
    """Print the jobs that match, and return the error that asks for a key."""
    more = len(found) > _MAX_MATCHES
    if not as_json:
        from prefect_wavespeed.deployments.cli.shared.console import Console
        from prefect_wavespeed.deployments.cli.views.jobs import print_job

        console = Console()
        for job in found[:_MAX_MATCHES]:
            print_job(job, console)
    keys = ", ".join(job.key[:16] for job in found[:_MAX_MATCHES])
    count = f"more than {_MAX_MATCHES}" if more else str(len(found))
    return ConfigurationError(
        f"{wanted} matches {count} jobs: give the key of one: {keys}{', …' if more else ''}"
    )
