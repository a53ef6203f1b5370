"""The command ``restyle`` as a process, also ``python -m prefect_wavespeed``."""

import gc
from typing import NoReturn

from prefect_wavespeed.deployments.cli.shared.pipes import secure_streams
from prefect_wavespeed.deployments.prefect_runtime import OFF_FOR_IMPORTS
from prefect_wavespeed.deployments.stopping import stop


def run() -> NoReturn:
    """Run the command line until it ends, or SIGTERM or SIGINT ends it."""
    secure_streams()  # before a file or a pipe gets the number of one that is closed
    stop.watch()  # before the imports, which take a while
    gc.set_threshold(OFF_FOR_IMPORTS)  # until `all_imported`: it is a tenth of the start
    from prefect_wavespeed.deployments.cli.app import main

    stop.end(main())


if __name__ == "__main__":
    run()
