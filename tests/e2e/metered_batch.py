"""A batch whose process waits at its end, so that what it has counted can be read.

    python -m tests.e2e.metered_batch MANIFEST OUTPUT

prints the run's summary as one line of JSON, and ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys

from flows import restyle_batch
from restyle.models import ReduxParams


def main(manifest: str, output: str) -> None:
    """Carry the batch out, and wait."""
    small = ReduxParams(size="256*256")
    summary = asyncio.run(restyle_batch(manifest, small, output=output, max_failed=1.0))
    print(summary.model_dump_json(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
