"""``make bench``: this project beside the vendor's SDK in a thread pool, on one emulator and one store."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from benchmarks.command import command
from benchmarks.contest import contest
from benchmarks.corpus import corpus
from benchmarks.growth import growth
from benchmarks.profile import profile
from benchmarks.servers import emulator, place

PARTS = ("contest", "batch", "growth", "profile")
_ASKED_FOR = ("corpus",)  # pip downloads what it needs


def main() -> None:
    """Measure what the command line says, and print it."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="contest | batch | growth | profile | corpus",
        help="all but corpus by default. contest: both contenders side by side; batch: the command "
        "`restyle batch` beside the rival, whole processes; growth: the flow "
        "restyle_batch on 100, 1,000 and 10,000 images; profile: what bounds one process, on 3,000 images, "
        "1,000 in flight; corpus: Pillow's own test images in one batch",
    )
    parser.add_argument("--images", type=int, default=600, help="of contest and batch")
    parser.add_argument("--in-flight", type=int, default=200, help="of contest and batch")
    parser.add_argument("--rounds", type=int, default=3, help="of batch")
    parser.add_argument("--store", choices=["directory", "ceph"], help="of the contest; both by default")
    asked = parser.parse_args()
    parts = asked.parts or PARTS
    if unknown := set(parts) - {*PARTS, *_ASKED_FOR}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    console = Console(width=None if sys.stdout.isatty() else 130)
    with emulator() as server:
        if "contest" in parts:
            for kind in [asked.store] if asked.store else ["directory", "ceph"]:
                with place(kind) as there:
                    if there:
                        console.print(contest(server, there, asked.images, asked.in_flight))
        if "batch" in parts:
            console.print(command(server, asked.images, asked.in_flight, asked.rounds))
        if "growth" in parts:
            console.print(growth(server))
        if "corpus" in parts:
            console.print(corpus(server))
        if "profile" in parts:
            for table in profile(server):
                console.print(table)


if __name__ == "__main__":
    main()
