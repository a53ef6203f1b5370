"""`restyle gallery`: the gallery of a batch in a browser, from wherever its output is."""

from __future__ import annotations

import sys
from typing import IO

from prefect_wavespeed.deployments.cli.shared.options import Out, Run
from prefect_wavespeed.deployments.prefect_runtime import all_imported, quiet_run


def gallery(*, out: Out, run: Run = "latest") -> int:
    """Print the gallery's address, and serve it until Ctrl-C.

    Raises:
        ConfigurationError: there is no such run, or it has not ended.
    """
    import asyncio

    stdout = sys.stdout  # while Prefect is quiet, another is in its place
    with quiet_run():
        asyncio.run(_serve(out, run, stdout))
    return 0


async def _serve(out: str, wanted: str, stdout: IO[str]) -> None:
    from prefect_wavespeed.deployments.cli.shared.outputs import open_existing_output
    from prefect_wavespeed.deployments.gallery_server import serve_gallery
    from prefect_wavespeed.inspect.runs import find_run

    all_imported()
    store = await open_existing_output(out)
    run = await find_run(store, wanted)
    print(f"run {run.id}; Ctrl-C ends it; open:", file=sys.stderr)
    await serve_gallery(store, run.folder, stdout)
