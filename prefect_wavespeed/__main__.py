"""``python -m prefect_wavespeed``: the command ``restyle``."""

import sys

from prefect_wavespeed.deployments.cli.app import main

sys.exit(main())
