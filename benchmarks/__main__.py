"""``make bench``: what this project costs, and how it does beside the vendor's SDK."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.servers import emulator, place

# Each part imports what it measures when it is run: its docstring is its line in --help.


def _contest(asked: argparse.Namespace) -> Iterator[Table]:
    """the engine beside the vendor's SDK in a thread pool, on one store"""
    from benchmarks.contest import contest

    with emulator() as server:
        for kind in [asked.store] if asked.store else ["directory", "ceph"]:
            with place(kind) as there:
                if there:
                    yield contest(server, there, _images(asked, 600)[0], asked.in_flight)


def _batch(asked: argparse.Namespace) -> Iterator[Table]:
    """the command `restyle batch` beside the same, whole processes"""
    from benchmarks.command import command

    with emulator() as server:
        yield command(server, _images(asked, 600)[0], asked.in_flight, asked.rounds)


def _dry_run(asked: argparse.Namespace) -> Iterator[Table]:
    """the dry run of a million rows, or as many as --rows says, nothing made yet"""
    from benchmarks.dry_run import dry_run

    with emulator() as server:
        yield dry_run(server, asked.rows)


def _growth(asked: argparse.Namespace) -> Iterator[Table]:
    """the flow restyle_batch on 100, 1,000 and 10,000 images, or as many as --images says"""
    from benchmarks.growth import growth

    low, high = asked.latency
    yield from growth(_images(asked, 100, 1_000, 10_000), asked.in_flight, (low, high))


def _profile(_: argparse.Namespace) -> Iterator[Table]:
    """what bounds one process, on 3,000 images, 1,000 in flight"""
    from benchmarks.profile import profile

    with emulator() as server:
        yield from profile(server)


def _requests(asked: argparse.Namespace) -> Iterator[Table]:
    """S3 requests by kind, of a first and a second night of 1,000 images on moto and Ceph"""
    from benchmarks.requests import requests_by_kind

    yield from requests_by_kind(_images(asked, 1_000)[0])


def _prefix(asked: argparse.Namespace) -> Iterator[Table]:
    """S3 requests by kind, of a night over a prefix of 50,000 images of which 100 are new"""
    from benchmarks.requests import huge_prefix

    for images in _images(asked, 50_000):
        yield from huge_prefix(images, min(100, images))


def _gallery(asked: argparse.Namespace) -> Iterator[Table]:
    """the gallery of 10,000 and of 100,000 rows, written and opened in Chromium"""
    from benchmarks.gallery import gallery

    for rows in _images(asked, 10_000, 100_000):
        yield gallery(rows)


def _corpus(_: argparse.Namespace) -> Iterator[Table]:
    """Pillow's own test images in one batch; pip downloads them"""
    from benchmarks.corpus import corpus

    with emulator() as server:
        yield corpus(server)


Part = Callable[[argparse.Namespace], Iterator[Table]]
PARTS: dict[str, Part] = {"contest": _contest, "batch": _batch, "growth": _growth, "profile": _profile}
ASKED_FOR: dict[str, Part] = {
    "corpus": _corpus,
    "dry-run": _dry_run,
    "gallery": _gallery,
    "prefix": _prefix,
    "requests": _requests,
}
"""Run only if they are named: they take long, or need more."""


def _images(asked: argparse.Namespace, *default: int) -> list[int]:
    return asked.images or list(default)


def main() -> None:
    """Measure what the command line says, and print it."""
    every = PARTS | ASKED_FOR
    width = max(map(len, every))
    epilog = "\n".join(f"  {name:{width}}  {part.__doc__}" for name, part in every.items())
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog=f"parts, by default all but {', '.join(ASKED_FOR)}:\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--images", type=int, nargs="+", help="600 of contest and batch; rows of gallery")
    parser.add_argument("--in-flight", type=int, default=200, help="of contest, batch and growth")
    parser.add_argument(
        "--latency",
        type=float,
        nargs=2,
        default=(2, 4),
        metavar=("LOW", "HIGH"),
        help="of growth, in seconds",
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of dry-run")
    parser.add_argument("--rounds", type=int, default=3, help="of batch")
    parser.add_argument("--store", choices=["directory", "ceph"], help="of contest; both by default")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(every):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    console = Console(width=None if sys.stdout.isatty() else 130)
    for name in asked.parts or PARTS:
        for table in every[name](asked):
            console.print(table)


if __name__ == "__main__":
    main()
