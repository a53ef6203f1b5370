"""`restyle list`: the jobs of an output, a line each as they are found, or as JSON; or its days."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Literal, TextIO

from cyclopts import Parameter

from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, Since
from prefect_wavespeed.deployments.cli.shared.pipes import is_read
from prefect_wavespeed.deployments.cli.shared.since import parse_since
from prefect_wavespeed.deployments.prefect_runtime import quiet_run
from prefect_wavespeed.errors import InvalidRequestError

Status = Annotated[
    Literal["open", "failed", "done"],
    Parameter(help="Only jobs that are open, have failed for good, or are done."),
]

By = Annotated[
    Literal["day"],
    Parameter(
        help="Instead, the days of batches whose manifests have a date: which are whole, by their last runs."
    ),
]

_IN_MEMORY = 1 << 20  # bytes of JSON; a longer list goes to a temporary file until it is complete


def list_jobs(
    *,
    out: Out,
    status: Status | None = None,
    since: Since = None,
    by: By | None = None,
    as_json: AsJson = False,
) -> int:
    """Print the jobs of the output, or its days; it is no error if there are none.

    Raises:
        InvalidRequestError: a status is asked for, which jobs have and days do not.
    """
    import asyncio

    start = parse_since(since) if since is not None else None
    if by and status:
        raise InvalidRequestError(f"--status {status}: is of jobs: leave it out with --by day")
    stdout = sys.stdout
    with quiet_run():
        if by:
            asyncio.run(_print_days(out, start, stdout, as_json=as_json))
        elif as_json:
            with SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as buffer:
                asyncio.run(_write_json(out, status, start, buffer))
                buffer.seek(0)
                shutil.copyfileobj(buffer, stdout)
        else:
            if not asyncio.run(_print_lines(out, status, start, stdout)):
                print("no jobs match", file=sys.stderr)
    return 0


async def _print_days(out: str, since: datetime | None, stdout: TextIO, *, as_json: bool) -> None:
    """Print a line for each day, or one object."""
    from prefect_wavespeed.deployments.cli.shared.console import Console
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.deployments.cli.shared.progress import ListingProgress
    from prefect_wavespeed.deployments.cli.views.days import as_dict, print_days
    from prefect_wavespeed.inspect.days import days_of, read_summaries

    store = await open_existing_output(out)
    with ListingProgress() as progress:
        found = days_of(await read_summaries(store, since.date() if since else None, progress.on_page))
    if as_json:
        print(json.dumps({"days": list(map(as_dict, found))}), file=stdout)
    elif found:
        print_days(found, Console(file=stdout))
    else:
        print("no run of a manifest with {date} has reported", file=sys.stderr)


async def _write_json(out: str, status: Status | None, since: datetime | None, buffer: IO[str]) -> None:
    """Write one object; an error in the middle must not leave half of it on stdout."""
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.deployments.cli.shared.progress import ListingProgress
    from prefect_wavespeed.deployments.cli.views.jobs import as_dict
    from prefect_wavespeed.inspect.jobs import jobs

    store = await open_existing_output(out)
    separator = '{"jobs": ['
    with ListingProgress() as progress:
        async for job in jobs(store, status, since, progress.on_page):
            buffer.write(f"{separator}{json.dumps(as_dict(job))}")
            separator = ", "
    buffer.write("]}\n" if separator == ", " else '{"jobs": []}\n')


async def _print_lines(out: str, status: Status | None, since: datetime | None, stdout: TextIO) -> int:
    """Print a line for each job, and return how many there are."""
    from prefect_wavespeed.deployments.cli.shared.console import Console
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.deployments.cli.shared.progress import ListingProgress
    from prefect_wavespeed.deployments.cli.views.jobs import print_job
    from prefect_wavespeed.inspect.jobs import jobs

    store = await open_existing_output(out)
    console = Console(file=stdout)
    count = 0
    with ListingProgress() as progress:
        async for job in jobs(store, status, since, progress.on_page):
            if console.is_terminal:
                progress.stop()
            print_job(job, console)
            count += 1
            if not is_read(stdout):
                break
    return count
