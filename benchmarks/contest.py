"""The contenders side by side: each a process of its own, on the same emulator and the same store."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from rich.table import Table

from benchmarks.contender import Effort, Work
from benchmarks.measured import LATENCY, Measured, ideal_rate
from benchmarks.servers import Place
from tests.support.emulator_process import Emulator

CONTENDERS = {
    "vendor's SDK in a thread pool": "vendor_sdk",
    "this project": "engine",
}


@dataclass(frozen=True)
class Result:
    """What one contender did, as it and the emulator tell it."""

    name: str
    images: int
    in_flight: int
    effort: Effort
    measured: Measured
    stored: int

    @property
    def rate(self) -> float:
        """Images a minute, from the first submission to the last stored object."""
        return self.images / (self.effort.stored_at - self.measured.began) * 60


def measure(name: str, module: str, emulator: Emulator, place: Place, images: int, in_flight: int) -> Result:
    """Let one contender do its work."""
    emulator.reset()
    work = Work(emulator.url, place.output(module), images, in_flight)
    command = [sys.executable, "-m", f"benchmarks.{module}", *work.arguments]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **place.env}).stdout
    effort = Effort(**json.loads(said.splitlines()[-1]))
    stored = asyncio.run(place.stored(module))
    return Result(name, images, in_flight, effort, Measured.of(emulator.ledger()), stored)


def contest(emulator: Emulator, place: Place, images: int, in_flight: int) -> Table:
    """Let all do the same work, one after the other, and return the table."""
    results = [
        measure(name, module, emulator, place, images, in_flight) for name, module in CONTENDERS.items()
    ]
    low, high = LATENCY
    table = Table(
        title=f"{images:,} images, {in_flight:,} in flight, {low:g} to {high:g} s each, {place.kind}"
    )
    table.add_column("")
    for column in (
        "images\na minute",
        "of the\nideal",
        "of the\nperfect",
        "API calls\nan image",
        "noticed\np50 s",
        "after\np95 s",
        "CPU ms\nan image",
        "peak\nMB",
        "billed",
        "stored",
    ):
        table.add_column(column, justify="right")
    ideal = ideal_rate(in_flight)
    for result in results:
        measured, effort = result.measured, result.effort
        table.add_row(
            result.name,
            f"{result.rate:,.0f}",
            f"{result.rate / ideal:.0%}",
            f"{result.rate / measured.perfect_rate(in_flight):.0%}",
            f"{measured.calls / images:.2f}",
            f"{measured.delay(0.5):.2f}",
            f"{measured.delay(0.95):.2f}",
            f"{effort.cpu / images * 1000:.1f}",
            f"{effort.memory:.0f}",
            str(measured.billed),
            str(result.stored),
        )
    perfect = results[-1].measured.perfect_rate(in_flight)
    table.add_section()
    table.add_row("a perfect scheduler", f"{perfect:,.0f}", f"{perfect / ideal:.0%}", "100%")
    table.add_row("in flight / latency", f"{ideal:,.0f}", "100%")
    return table
