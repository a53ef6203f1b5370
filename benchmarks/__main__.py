"""``make bench``: this project's engine beside the vendor's SDK in a thread pool, on one emulator."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONTENDERS = {
    "vendor's SDK, thread pool": "benchmarks.vendor_sdk",
    "this project's engine": "benchmarks.engine",
}
LATENCY = (2.0, 4.0)


@dataclass
class Result:
    """What one contender did."""

    name: str
    images: int
    seconds: float
    cpu: float
    memory: float
    calls: int
    billed: int
    stored: int


def main() -> None:
    """Run both, one after the other, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--in-flight", type=int, default=200)
    options = parser.parse_args()
    ideal = options.in_flight / (sum(LATENCY) / 2) * 60
    with _Emulator() as url, tempfile.TemporaryDirectory() as folder:
        results = [
            _measure(name, module, url, Path(folder) / module, options.images, options.in_flight)
            for name, module in CONTENDERS.items()
        ]
    table = Table(
        title=f"{options.images} images, {options.in_flight} in flight, "
        f"{LATENCY[0]:g} to {LATENCY[1]:g} s each, stored in a directory; ideal {ideal:.0f} images a minute"
    )
    columns = (
        "",
        "images/min",
        "of the ideal",
        "API calls/image",
        "CPU ms/image",
        "peak MB",
        "billed",
        "stored",
    )
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for result in results:
        rate = result.images / result.seconds * 60
        table.add_row(
            result.name,
            f"{rate:.0f}",
            f"{rate / ideal:.0%}",
            f"{result.calls / result.images:.1f}",
            f"{result.cpu / result.images * 1000:.1f}",
            f"{result.memory:.0f}",
            str(result.billed),
            str(result.stored),
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _measure(name: str, module: str, url: str, output: Path, images: int, in_flight: int) -> Result:
    _call(url + "/emulator/reset", "POST")
    command = [sys.executable, "-m", module, url, str(output), str(images), str(in_flight)]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    ledger = json.loads(_call(url + "/emulator/ledger", "GET"))
    calls = sum(ledger["calls"].values()) - ledger["calls"]["cdn"]
    return Result(name=name, images=images, calls=calls, billed=ledger["billed"], **figures)


class _Emulator:
    def __enter__(self) -> str:
        latency = [str(seconds) for seconds in LATENCY]
        command = [
            sys.executable,
            "-m",
            "emulator",
            "--prerendered",
            "--balance",
            "1000000",
            "--latency",
            *latency,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        return self._process.stdout.readline().split()[-1]

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def _call(url: str, method: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method), timeout=10) as answer:
        body: bytes = answer.read()
    return body


if __name__ == "__main__":
    main()
