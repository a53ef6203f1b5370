"""What every contender is given, and what it tells when it is done."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

IMAGE = "https://example.com/photo.jpg"  # the emulator serves a picture made beforehand


@dataclass
class Work:
    """Images to restyle, at most so many at once, into a directory."""

    base_url: str
    output: Path
    images: int
    in_flight: int


def contend(run: Callable[[Work], None]) -> None:
    """Do the work of the command line and print seconds, CPU seconds and peak memory (MB) as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("output", type=Path)
    parser.add_argument("images", type=int)
    parser.add_argument("in_flight", type=int)
    work = Work(**vars(parser.parse_args()))
    before, start = _cpu(), time.monotonic()
    run(work)
    figures = {
        "seconds": time.monotonic() - start,
        "cpu": _cpu() - before,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stored": len(list(work.output.glob("**/*.jpeg"))),
    }
    print(json.dumps(figures))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
