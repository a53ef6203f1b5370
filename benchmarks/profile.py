"""What bounds one process: the rate that it holds, and where its processor time goes."""

from __future__ import annotations

import cProfile
import io
import pstats
import re
import tempfile
from collections import Counter
from pathlib import Path

from rich.table import Table

from benchmarks import engine
from benchmarks.contender import Work
from benchmarks.contest import measure
from benchmarks.servers import place
from tests.support.emulator_process import Emulator

IMAGES, IN_FLIGHT = 3_000, 1_000
LEVELS = {"Gold": 3_000, "Ultra": 5_000}
"""Submissions a minute that the vendor's account levels allow."""

_GROUPS = {
    "waiting for events": r"'poll' of 'select|select\.epoll",
    "sockets": r"_socket\.socket",
    "decoding pictures": r"/PIL/|ImagingDecoder|ImagingEncoder",
    "store (obstore)": r"obstore|~ <(get|put|delete|list)|/prefect_wavespeed/(storage|ledger)/",
    "HTTP (httpx, aiohttp)": r"/aiohttp/|/yarl/|/multidict/|aiohappyeyeballs|/httpx/",
    "pydantic": r"pydantic|/prefect_wavespeed/api/(models|predictions)|to_json",
    "threads": r"/threading\.py|/concurrent/|_queue|/asyncio/threads|_thread",
    "asyncio": r"/asyncio/|/selectors\.py|contextvars",
    "JSON": r"/json/|_json",
    "report (SQLite, Parquet)": r"sqlite|pyarrow|/batch/(report/|job_table)",
    "this project": r"/prefect_wavespeed/|/benchmarks/",
}


def profile(emulator: Emulator) -> list[Table]:
    """Measure one process, once as it is and once under a profiler."""
    with place("directory") as there:
        assert there
        result = measure("this project", "engine", emulator, there, IMAGES, IN_FLIGHT)
    held = Table(title=f"{IMAGES:,} images, {IN_FLIGHT:,} in flight, one process, a directory")
    for column in ("images a minute", *(f"of {name}'s {most:,}" for name, most in LEVELS.items())):
        held.add_column(column, justify="right")
    held.add_column("of the perfect", justify="right")
    held.add_column("CPU ms an image", justify="right")
    held.add_column("busy", justify="right")
    seconds = IMAGES / result.rate * 60
    held.add_row(
        f"{result.rate:,.0f}",
        *(f"{result.rate / most:.0%}" for most in LEVELS.values()),
        f"{result.rate / result.measured.perfect_rate(IN_FLIGHT):.0%}",
        f"{result.effort.cpu / IMAGES * 1000:.1f}",
        f"{result.effort.cpu / seconds:.0%}",
    )
    return [held, _where(emulator)]


def _where(emulator: Emulator) -> Table:
    emulator.reset()
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(emulator.url, str(Path(folder) / "out"), IMAGES, IN_FLIGHT)
        profiler.enable()
        engine.run(work)
        profiler.disable()
    groups = Counter[str]()
    stats = pstats.Stats(profiler, stream=io.StringIO())
    for (file, _, function), (_, _, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        group = _group(f"{file} {function}")
        if group or file != "~":
            groups[group or "Python and the rest"] += own
            continue
        for (by_file, _, by), (_, _, share, _) in callers.items():  # a builtin is its caller's
            groups[_group(f"{by_file} {by}") or "Python and the rest"] += share
    waiting = groups.pop("waiting for events", 0.0)
    table = Table(title=f"the event loop's thread under cProfile (it waited for {waiting:.1f} s)")
    table.add_column("where")
    table.add_column("ms an image", justify="right")
    table.add_column("share", justify="right")
    total = groups.total()
    for group, spent in groups.most_common():
        table.add_row(group, f"{spent / IMAGES * 1000:.2f}", f"{spent / total:.0%}")
    return table


def _group(where: str) -> str | None:
    return next((name for name, pattern in _GROUPS.items() if re.search(pattern, where)), None)
