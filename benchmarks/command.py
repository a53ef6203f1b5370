"""The command ``restyle batch`` beside the vendor's SDK, each a whole process, from exec to exit.

A Prefect server is running, as it is where a team uses this; its own processor time is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.contender import IMAGE, Work
from benchmarks.measured import LATENCY, Measured
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer

# What Prefect itself needs until the body of a flow runs: one with a parameter, for which it imports FastAPI.
_EMPTY_FLOW = """
import prefect, time
@prefect.flow
def empty(parameter: str):
    print(time.time())
empty("")
"""


@dataclass(frozen=True)
class Process:
    """A process from exec to exit.

    Attributes:
        began: Unix seconds.
        seconds: until it had ended.
        cpu: seconds of user and system time, those of its own child processes included.
        peak_mb: the most memory that it had.
        said: its standard output.
    """

    began: float
    seconds: float
    cpu: float
    peak_mb: float
    said: str

    @classmethod
    def run(cls, arguments: Sequence[str], env: Mapping[str, str], folder: Path) -> Process:
        """Run Python with these arguments."""
        with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
            began, since = time.time(), time.monotonic()
            process = subprocess.Popen([sys.executable, *arguments], env=env, stdout=out, stderr=err)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - since
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            if status:
                raise RuntimeError(err.read())
            return cls(began, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, out.read())


@dataclass(frozen=True)
class Round:
    """Both contenders, one after the other.

    Attributes:
        rival, ours: the processes.
        first: seconds from exec to the first submission of ours.
        last: seconds from the last stored picture of ours to its exit.
        floor: seconds from exec to the body of a flow that does nothing.
    """

    rival: Process
    ours: Process
    first: float
    last: float
    floor: float

    @property
    def ratios(self) -> tuple[float, float]:
        """Our time and our processor time, the rival's being 1."""
        return self.ours.seconds / self.rival.seconds, self.ours.cpu / self.rival.cpu


def command(emulator: Emulator, images: int, in_flight: int, rounds: int) -> Table:
    """Let both do the same work as often as ``rounds`` says, and return the table.

    Args:
        emulator: that they use.
        images: to restyle.
        in_flight: at most so many at once.
        rounds: of which the median counts.
    """
    low, high = LATENCY
    title = f"restyle batch, whole process: {images:,} images, {in_flight:,} in flight, {low:g} to {high:g} s"
    table = Table(title=title)
    table.add_column("round")
    for column in (
        "SDK\ns",
        "restyle\ns",
        "time\nratio",
        "SDK\nCPU s",
        "restyle\nCPU s",
        "CPU\nratio",
        "restyle CPU\nms an image",
        "to the first\nsubmission s",
        "to an empty\nflow's body s",
        "from the last\npicture s",
    ):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, PrefectServer(Path(name) / "prefect") as prefect:
        folder = Path(name)
        manifest = folder / "manifest.jsonl"
        rows = (json.dumps({"image": IMAGE, "seed": number}) for number in range(images))
        manifest.write_text("\n".join(rows))
        done = []
        for number in range(1, rounds + 1):
            there = folder / str(number)
            there.mkdir()
            done.append(_round(emulator, prefect, manifest, there, images, in_flight))
            table.add_row(str(number), *_cells(done[-1], images))
    table.add_section()
    times, cpus = zip(*(each.ratios for each in done), strict=True)
    table.add_row("median", "", "", f"{median(times):.2f}", "", "", f"{median(cpus):.2f}")
    return table


def _round(
    emulator: Emulator, prefect: PrefectServer, manifest: Path, folder: Path, images: int, in_flight: int
) -> Round:
    floor = Process.run(["-c", _EMPTY_FLOW], prefect.env, folder)
    emulator.reset()
    work = Work(emulator.url, str(folder / "sdk"), images, in_flight)
    rival = Process.run(["-m", "benchmarks.vendor_sdk", *work.arguments], prefect.env, folder)
    emulator.reset()
    env = {**prefect.env, "WAVESPEED_API_KEY": "bench-key", "WAVESPEED_BASE_URL": emulator.url}
    out = folder / "restyle"
    arguments = ["batch", str(manifest), "--out", str(out), "--concurrency", str(in_flight)]
    ours = Process.run(["-m", "prefect_wavespeed", *arguments], env, folder)
    stored = [picture.stat().st_mtime for picture in out.glob("images/**/*.jpeg")]
    measured = Measured.of(emulator.ledger())
    if not len(stored) == measured.billed == images:
        raise RuntimeError(f"{len(stored)} stored and {measured.billed} billed of {images}")
    return Round(
        rival,
        ours,
        first=measured.began - ours.began,
        last=ours.began + ours.seconds - max(stored),
        floor=float(floor.said) - floor.began,
    )


def _cells(done: Round, images: int) -> list[str]:
    time_ratio, cpu_ratio = done.ratios
    return [
        f"{done.rival.seconds:.1f}",
        f"{done.ours.seconds:.1f}",
        f"{time_ratio:.2f}",
        f"{done.rival.cpu:.1f}",
        f"{done.ours.cpu:.1f}",
        f"{cpu_ratio:.2f}",
        f"{done.ours.cpu / images * 1000:.1f}",
        f"{done.first:.2f}",
        f"{done.floor:.2f}",
        f"{done.last:.2f}",
    ]
