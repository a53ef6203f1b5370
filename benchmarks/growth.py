"""How the real flow grows: ``restyle_batch`` on a real Prefect server, with ever more images.

Client, emulator and Prefect's server are processes of their own, and each is told apart from the others: a
run may be bound by the stand-in for the API rather than by what is measured.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.contender import IMAGE
from benchmarks.measured import Measured
from benchmarks.memory import cpu_seconds, group_of, peak_mb, resident_mb
from benchmarks.servers import emulator
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Command

# A process of its own, so that its memory and its processor time are the client's alone.
_RUN = """
import asyncio, json, sys, time
from benchmarks.contender import cpu
from benchmarks.memory import peak_mb
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.flows.restyle_batch import restyle_batch
manifest, output, in_flight = sys.argv[1:]
summary = restyle_batch(manifest, BatchOptions(concurrency=int(in_flight)), output=output)
print(json.dumps({"ended": time.time(), "memory": peak_mb(), "cpu": cpu(), "report": summary.report}))
"""


@dataclass(frozen=True)
class Used:
    """Processor time, in seconds, and the most memory, in MB, of a program with its processes."""

    cpu: float
    memory: float

    @classmethod
    def by(cls, *processes: int) -> Used:
        """What these processes have used so far."""
        return cls(sum(map(cpu_seconds, processes)), sum(map(peak_mb, processes)))

    def cells(self, images: int, seconds: float) -> list[str]:
        """Milliseconds an image, the share of all cores, megabytes."""
        share = self.cpu / seconds / (os.cpu_count() or 1)
        return [f"{self.cpu / images * 1000:.1f}", f"{share:.0%}", f"{self.memory:.0f}"]


@dataclass(frozen=True)
class Run:
    """One run of the flow.

    Attributes:
        images: in the manifest.
        seconds: the whole process.
        rate: images a minute, from the first submission to the end.
        perfect: the rate of a scheduler that costs nothing.
        client, emulator, prefect: what each needed.
        task_runs: that the server has recorded in the end.
        lag: seconds until it had.
        billed: predictions.
        stored: pictures with a side-car in the output.
        rows: of the Parquet file.
        jobs: distinct ones among its rows that are stored.
        gallery: bytes.
    """

    images: int
    seconds: float
    rate: float
    perfect: float
    client: Used
    emulator: Used
    prefect: Used
    task_runs: int
    lag: float
    billed: int
    stored: int
    rows: int
    jobs: int
    gallery: int


def growth(images: Sequence[int], in_flight: int, latency: tuple[float, float]) -> Iterator[Table]:
    """Run the flow on ever more images, each time with a Prefect server and an emulator that are empty."""
    low, high = latency
    title = f"{in_flight:,} in flight, {low:g} to {high:g} s each, a directory"
    runs = []
    for count in images:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(_run(Path(folder), count, in_flight, latency))
    yield _flow(runs, f"restyle_batch on a Prefect server, {title}")
    yield _account(runs)
    yield _machine(runs)


def _run(folder: Path, images: int, in_flight: int, latency: tuple[float, float]) -> Run:
    manifest, out = folder / "manifest.jsonl", folder / "out"
    with manifest.open("w") as rows:
        rows.writelines(json.dumps({"image": IMAGE, "seed": number}) + "\n" for number in range(images))
    with emulator(latency) as api, PrefectServer(folder / "prefect") as server:
        env = {"WAVESPEED_API_KEY": "bench-key", "WAVESPEED_BASE_URL": api.url}
        began = time.time()
        command = server.python("-c", _RUN, str(manifest), str(out), str(in_flight), env=env)
        _watch(command, out, images)
        ended = command.ended()
        if ended.status:
            raise RuntimeError(ended.stderr)
        said = json.loads(ended.stdout.splitlines()[-1])
        used = Used.by(api.process.pid)
        task_runs, lag = _caught_up(server, said["ended"])
        prefect = Used.by(*group_of(server.process.pid))
        measured = Measured.of(api.ledger())
    report = Path(said["report"])
    table = pq.read_table(report / "report.parquet", columns=["status", "job_key"])
    stored = table.filter(pc.equal(table["status"], "stored"))
    seconds = said["ended"] - began
    return Run(
        images=images,
        seconds=seconds,
        rate=images / (said["ended"] - measured.began) * 60,
        perfect=measured.perfect_rate(in_flight),
        client=Used(said["cpu"], said["memory"]),
        emulator=used,
        prefect=prefect,
        task_runs=task_runs,
        lag=lag,
        billed=measured.billed,
        stored=sum(picture.with_name("metadata.json").exists() for picture in out.glob("images/*/1.jpeg")),
        rows=table.num_rows,
        jobs=len(stored["job_key"].unique()),
        gallery=(report / "gallery.html").stat().st_size,
    )


def _watch(command: Command, out: Path, images: int) -> None:
    """Wait for the end, and tell on standard error at each tenth what the client has needed until then."""
    began, told = time.time(), 0
    while command.running:
        time.sleep(1 + images / 10_000)
        folder, process = out / "images", command.process.pid
        stored = sum(1 for _ in os.scandir(folder)) if folder.exists() else 0
        if stored * 10 // images > told and command.running:
            told = stored * 10 // images
            memory, cpu = resident_mb(process), cpu_seconds(process)
            said = f"{stored:,} of {images:,} stored after {time.time() - began:.0f} s"
            print(f"{said}: {memory:.0f} MB, {cpu / stored * 1000:.1f} ms an image", file=sys.stderr)


def _flow(runs: Sequence[Run], title: str) -> Table:
    table = Table(title=title)
    for column in (
        "images",
        "seconds",
        "images\na minute",
        "of the\nperfect",
        "client's\npeak MB",
        "CPU ms\nan image",
        "task runs",
        "server lag\ns",
    ):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(
            f"{run.images:,}",
            f"{run.seconds:.1f}",
            f"{run.rate:,.0f}",
            f"{run.rate / run.perfect:.0%}",
            f"{run.client.memory:.0f}",
            f"{run.client.cpu / run.images * 1000:.1f}",
            f"{run.task_runs:,}",
            f"{run.lag:.1f}",
        )
    return table


def _account(runs: Sequence[Run]) -> Table:
    table = Table(title="what is there in the end")
    for column in ("images", "billed", "stored", "rows in\nParquet", "distinct jobs\nstored", "gallery\nMB"):
        table.add_column(column, justify="right")
    for run in runs:
        counts = (run.images, run.billed, run.stored, run.rows, run.jobs)
        table.add_row(*(f"{count:,}" for count in counts), f"{run.gallery / 1e6:.1f}")
    return table


def _machine(runs: Sequence[Run]) -> Table:
    table = Table(title=f"who took the machine's {os.cpu_count()} cores")
    table.add_column("images", justify="right")
    for who in ("client", "emulator", "Prefect's server"):
        for column in ("CPU ms\nan image", "of all\ncores", "peak\nMB"):
            table.add_column(f"{who}\n{column}", justify="right")
    for run in runs:
        parts = (run.client, run.emulator, run.prefect)
        table.add_row(f"{run.images:,}", *(c for used in parts for c in used.cells(run.images, run.seconds)))
    return table


def _caught_up(server: PrefectServer, ended: float) -> tuple[int, float]:
    """How many task runs the server has recorded in the end, and how long after the flow's end."""
    task_runs, last = -1, time.time()
    while time.time() - last < 5:  # nothing more has come for five seconds
        runs = server.all("task_runs")
        done = sum(run["state_type"] == "COMPLETED" for run in runs)
        if done != task_runs:
            task_runs, last = done, time.time()
        time.sleep(0.2)
    return task_runs, max(0.0, last - ended)
