"""The command ``restyle`` as a process, also ``python -m prefect_wavespeed``."""

from typing import NoReturn

from prefect_wavespeed.deployments.stopping import stop


def run() -> NoReturn:
    """Run the command line until it ends, or SIGTERM or SIGINT ends it."""
    stop.watch()  # before the imports, which take a while
    from prefect_wavespeed.deployments.cli.app import main

    stop.end(main())


if __name__ == "__main__":
    run()
