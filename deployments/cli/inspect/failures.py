"""`restyle failures`: every row of a batch that has no pictures, with the reason and the next step."""

from __future__ import annotations

import json
import shutil
import sys
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING

from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, Run
from prefect_wavespeed.deployments.prefect_runtime import quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.batch.report.rows import Summary
    from prefect_wavespeed.inspect.failures import Failures
    from prefect_wavespeed.inspect.runs import BatchRun

_IN_MEMORY = 1 << 20  # bytes; what is longer goes to a temporary file until it is complete


def failures(*, out: Out, run: Run = "latest", as_json: AsJson = False) -> int:
    """Print the rows; it is no error if there are none, nor if there are some.

    Raises:
        ConfigurationError: there is no such run.
    """
    import asyncio

    stdout = sys.stdout
    with quiet_run(), SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as buffer:
        asyncio.run(_failures(out, run, buffer, stdout, as_json=as_json))
        buffer.seek(0)
        shutil.copyfileobj(buffer, stdout)
    return 0


async def _failures(out: str, wanted: str, buffer: IO[str], stdout: IO[str], *, as_json: bool) -> None:
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.inspect.failures import Failures
    from prefect_wavespeed.inspect.runs import find_run, read_summary

    store = await open_existing_output(out)
    run = await find_run(store, wanted)
    summary = await read_summary(store, run)
    # a directory as the batch names it, from wherever the command is pasted; a block has the credentials
    out = out if store.access else store.uri
    found = Failures(store, run, out)
    if as_json:
        await _write_json(found, run, summary, f"{store.uri_of(run.folder)}/", out, buffer)
    else:
        await _print(found, run, summary, out, buffer, stdout)


async def _print(
    found: Failures, run: BatchRun, summary: Summary | None, out: str, buffer: IO[str], stdout: IO[str]
) -> None:
    from prefect_wavespeed.deployments.cli.shared.console import Console
    from prefect_wavespeed.deployments.cli.views.failures import FailureGroups, tabbed
    from prefect_wavespeed.inspect.advice import next_step_of_run

    console, count = Console(file=stdout), 0
    with FailureGroups() as groups:
        async for row, step in found.rows():
            count += 1
            if console.is_terminal:
                groups.add(row, step)
            else:
                print(tabbed(row, step), file=buffer)
        named = summary and summary.flow_run_name
        name = f"{named}, run {run.id}" if named else f"run {run.id}"
        since = f"; {found.stored_since:,} stored since" if found.stored_since else ""
        print(f"{name}: {summary.outcome if summary else next_step_of_run(run, out)}{since}", file=sys.stderr)
        groups.print(console)
    if summary and not count:
        print("every row has its pictures", file=sys.stderr)


async def _write_json(
    found: Failures, run: BatchRun, summary: Summary | None, report: str, out: str, buffer: IO[str]
) -> None:
    """Write one object, row by row: there may be very many."""
    from prefect_wavespeed.inspect.advice import next_step_of_run

    of_run = {
        "flow_run_id": run.id,
        "flow_run_name": summary.flow_run_name if summary else None,
        "report": report,
        "is_complete": run.is_complete,
        "counts": summary.counts if summary else None,
        "next": None if summary else next_step_of_run(run, out),
    }
    buffer.write(f'{{"run": {json.dumps(of_run)}, "rows": [')
    separator = ""
    async for row, step in found.rows():
        shown = {"reason": row.reason, "next": step, **row.model_dump(mode="json")}
        buffer.write(f"{separator}{json.dumps(shown)}")
        separator = ", "
    buffer.write(f'], "stored_since": {found.stored_since}}}\n')
