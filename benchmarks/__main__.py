"""``make bench``: this project beside the vendor's SDK in a thread pool, on one emulator and one store."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from benchmarks.contest import contest
from benchmarks.growth import growth
from benchmarks.profile import profile
from benchmarks.servers import emulator, place


def main() -> None:
    """Measure what the command line says, and print it."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--store", choices=["directory", "ceph"], help="one of them; both by default")
    parser.add_argument(
        "--grow", action="store_true", help="the flow restyle_batch on 100, 1,000 and 10,000 images"
    )
    parser.add_argument(
        "--profile", action="store_true", help="what bounds one process, on 3,000 images, 1,000 in flight"
    )
    asked = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)
    with emulator() as server:
        if asked.grow:
            console.print(growth(server))
        if asked.profile:
            for table in profile(server):
                console.print(table)
        if asked.grow or asked.profile:
            return
        for kind in [asked.store] if asked.store else ["directory", "ceph"]:
            with place(kind) as there:
                if there:
                    console.print(contest(server, there, asked.images, asked.in_flight))


if __name__ == "__main__":
    main()
