"""`restyle …` in a process that tells, on its last line on stderr, its own peak memory in MB.

python -m tests.support.batch_runner batch MANIFEST --out OUTPUT …

With MEMORY_LIMIT_MB its data may not be more: Linux's RLIMIT_DATA, which is what it may write to. RLIMIT_AS
would also count libraries and what threads reserve and never use; a control group needs root.
"""

from __future__ import annotations

import os
import resource
import sys

if __name__ == "__main__":
    if limit := os.environ.get("MEMORY_LIMIT_MB"):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit) << 20,) * 2)
    from benchmarks.memory import peak_mb
    from prefect_wavespeed.deployments.cli.app import main

    status = main()
    print(f"peak {peak_mb():.0f} MB", file=sys.stderr)
    sys.exit(status)
