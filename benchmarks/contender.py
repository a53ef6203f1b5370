"""What every contender is given, and what it tells when it is done."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.memory import peak_mb

IMAGE = "https://example.com/photo.jpg"  # the emulator serves a picture made beforehand


@dataclass(frozen=True)
class Work:
    """Images to restyle, at most so many at once, into a directory or below ``s3://bucket/prefix``."""

    base_url: str
    output: str
    images: int
    in_flight: int

    @property
    def arguments(self) -> list[str]:
        """The contender's command line."""
        return [self.base_url, self.output, str(self.images), str(self.in_flight)]


@dataclass(frozen=True)
class Effort:
    """What a contender tells of itself.

    Attributes:
        stored_at: when the last object was stored, in Unix seconds.
        cpu: seconds of user and system time, without the start of Python and the imports.
        memory: most that the process held, in MB.
    """

    stored_at: float
    cpu: float
    memory: float


def contend(run: Callable[[Work], float]) -> None:
    """Do the work of the command line and print the effort as JSON; ``run`` returns ``stored_at``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("output")
    parser.add_argument("images", type=int)
    parser.add_argument("in_flight", type=int)
    work = Work(**vars(parser.parse_args()))
    before = cpu()
    stored_at = run(work)
    print(json.dumps(asdict(Effort(stored_at, cpu() - before, peak_mb()))))


def cpu() -> float:
    """Seconds of user and system time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def now() -> float:
    """Unix seconds, as the emulator's ledger tells them."""
    return time.time()
