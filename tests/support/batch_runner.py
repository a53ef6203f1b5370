"""`restyle …` in a process that tells, on its last line on stderr, its own peak memory in MB.

python -m tests.support.batch_runner batch MANIFEST --out OUTPUT …
"""

from __future__ import annotations

import sys

from benchmarks.memory import peak_mb
from prefect_wavespeed.deployments.cli.app import main

if __name__ == "__main__":
    status = main()
    print(f"peak {peak_mb():.0f} MB", file=sys.stderr)
    sys.exit(status)
