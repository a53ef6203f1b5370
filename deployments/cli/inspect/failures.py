"""`restyle failures`: every row of a batch that has no pictures, with the reason and the next step."""

from __future__ import annotations

import json
import shutil
import sys
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING

from prefect_wavespeed.deployments.cli.shared.options import AsJson, Out, Run
from prefect_wavespeed.deployments.cli.shared.pipes import until_closed
from prefect_wavespeed.deployments.prefect_runtime import quiet_run

if TYPE_CHECKING:
    from prefect_wavespeed.inspect.runs import BatchRun
    from prefect_wavespeed.storage.store import Store

_IN_MEMORY = 1 << 20  # bytes; what is longer goes to a temporary file until it is complete


def failures(*, out: Out, run: Run = "latest", as_json: AsJson = False) -> int:
    """Print the rows; it is no error if there are none, nor if there are some.

    Raises:
        ConfigurationError: there is no such run.
    """
    import asyncio

    stdout = sys.stdout
    with (
        quiet_run(),
        SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as buffer,
        until_closed(stdout),
    ):
        asyncio.run(_failures(out, run, buffer, stdout, as_json=as_json))
        buffer.seek(0)
        shutil.copyfileobj(buffer, stdout)
    return 0


async def _failures(out: str, wanted: str, buffer: IO[str], stdout: IO[str], *, as_json: bool) -> None:
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.inspect.runs import find_run

    store = await open_existing_output(out)
    run = await find_run(store, wanted)
    if as_json:
        await _write_json(store, run, out, buffer)
    else:
        await _print(store, run, out, buffer, stdout)


async def _print(store: Store, run: BatchRun, out: str, buffer: IO[str], stdout: IO[str]) -> None:
    from rich.console import Console

    from prefect_wavespeed.deployments.cli.views.failures import FailureGroups, tabbed
    from prefect_wavespeed.inspect.advice import next_step_of_row, next_step_of_run
    from prefect_wavespeed.inspect.runs import read_summary, rows_without_pictures

    summary, count = await read_summary(store, run), 0
    console, groups = Console(file=stdout, highlight=False), FailureGroups()
    async for row in rows_without_pictures(store, run):
        count += 1
        step = next_step_of_row(row, out)
        if console.is_terminal:
            groups.add(row, step)
        else:
            print(tabbed(row, step), file=buffer)
    name = f"{summary.flow_run_name}, run {run.id}" if summary and summary.flow_run_name else f"run {run.id}"
    print(f"{name}: {summary.outcome if summary else next_step_of_run(run, out)}", file=sys.stderr)
    groups.print(console)
    if summary and not count:
        print("every row has its pictures", file=sys.stderr)


async def _write_json(store: Store, run: BatchRun, out: str, buffer: IO[str]) -> None:
    """Write one object, row by row: there may be very many."""
    from prefect_wavespeed.inspect.advice import next_step_of_row, next_step_of_run
    from prefect_wavespeed.inspect.runs import read_summary, rows_without_pictures

    summary = await read_summary(store, run)
    of_run = {
        "flow_run_id": run.id,
        "flow_run_name": summary.flow_run_name if summary else None,
        "report": f"{store.uri_of(run.folder)}/",
        "is_complete": run.is_complete,
        "counts": summary.counts if summary else None,
        "next": None if summary else next_step_of_run(run, out),
    }
    buffer.write(f'{{"run": {json.dumps(of_run)}, "rows": [')
    separator = ""
    async for row in rows_without_pictures(store, run):
        shown = {"reason": row.reason, "next": next_step_of_row(row, out), **row.model_dump(mode="json")}
        buffer.write(f"{separator}{json.dumps(shown)}")
        separator = ", "
    buffer.write("]}\n")
