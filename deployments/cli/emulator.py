"""`restyle emulator`: the emulator's own command line."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_wavespeed.deployments.prefect_runtime import all_imported


def emulator(*options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Run the emulator until it is stopped.

    Args:
        options: Options of the emulator.
    """
    from prefect_wavespeed.emulator import main

    all_imported()
    return main(options, prog="restyle emulator")
