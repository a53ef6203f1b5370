"""How the real flow grows: ``restyle_batch`` on a real Prefect server, with ever more images."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from rich.table import Table

from benchmarks.contender import IMAGE
from benchmarks.measured import Measured
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer

IMAGES = (100, 1_000, 10_000)
IN_FLIGHT = 200

# A process of its own, so that its memory and its processor time are the client's alone.
_RUN = """
import asyncio, json, sys, time
from benchmarks.contender import cpu
from benchmarks.memory import peak_mb
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.flows.restyle_batch import restyle_batch
manifest, output, in_flight = sys.argv[1:]
restyle_batch(manifest, BatchOptions(concurrency=int(in_flight)), output=output)
print(json.dumps({"ended": time.time(), "memory": peak_mb(), "cpu": cpu()}))
"""


def growth(emulator: Emulator) -> Table:
    """Run the flow on 100, 1,000 and 10,000 images, each on an empty Prefect server."""
    table = Table(title=f"restyle_batch on a Prefect server, {IN_FLIGHT} in flight, a directory")
    table.add_column("images", justify="right")
    for column in (
        "seconds",
        "images\na minute",
        "of the\nperfect",
        "client's\npeak MB",
        "CPU ms\nan image",
        "task runs",
        "server lag\ns",
        "billed",
    ):
        table.add_column(column, justify="right")
    for images in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(*_row(emulator, Path(folder), images))
    return table


def _row(emulator: Emulator, folder: Path, images: int) -> list[str]:
    emulator.reset()
    manifest = folder / "manifest.jsonl"
    with manifest.open("w") as rows:
        rows.writelines(json.dumps({"image": IMAGE, "seed": number}) + "\n" for number in range(images))
    with PrefectServer(folder / "prefect") as server:
        env = {"WAVESPEED_API_KEY": "bench-key", "WAVESPEED_BASE_URL": emulator.url}
        began = time.time()
        command = server.python("-c", _RUN, str(manifest), str(folder / "out"), str(IN_FLIGHT), env=env)
        ended = command.ended(3600)
        if ended.status:
            raise RuntimeError(ended.stderr)
        said = json.loads(ended.stdout.splitlines()[-1])
        task_runs, lag = _caught_up(server, said["ended"])
    measured = Measured.of(emulator.ledger())
    rate = images / (said["ended"] - measured.began) * 60
    return [
        f"{images:,}",
        f"{said['ended'] - began:.1f}",
        f"{rate:,.0f}",
        f"{rate / measured.perfect_rate(IN_FLIGHT):.0%}",
        f"{said['memory']:.0f}",
        f"{said['cpu'] / images * 1000:.1f}",
        f"{task_runs:,}",
        f"{lag:.1f}",
        f"{measured.billed:,}",
    ]


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
