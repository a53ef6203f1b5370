"""``python -m prefect_wavespeed.emulator``."""

import sys

from prefect_wavespeed.emulator import main

sys.exit(main())
