"""``restyle batch --dry-run`` of many rows of which nothing is made yet, each time a process of its own."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.command import Process
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer


def dry_run(emulator: Emulator, rows: int) -> Table:
    """Quote a manifest of each kind, with a Prefect server running.

    Args:
        emulator: that is asked for price and balance.
        rows: of each manifest, each of another URL; some parameters differ.
    """
    table = Table(title=f"restyle batch --dry-run: {rows:,} rows, nothing made yet")
    table.add_column("manifest")
    for column in ("seconds", "CPU s", "CPU µs a row", "peak MB"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, PrefectServer(Path(name) / "prefect") as prefect:
        folder = Path(name)
        env = {**prefect.env, "WAVESPEED_API_KEY": "bench-key", "WAVESPEED_BASE_URL": emulator.url}
        for kind, write in _KINDS.items():
            manifest = folder / f"manifest.{kind}"
            write(manifest, rows)
            arguments = ["batch", str(manifest), "--dry-run", "--out", str(folder / "out"), "--json"]
            ended = Process.run(["-m", "prefect_wavespeed", *arguments], env, folder)
            if json.loads(ended.said)["jobs"] != rows:
                raise RuntimeError(ended.said)
            used = (ended.seconds, ended.cpu, ended.cpu / rows * 1e6, ended.peak_mb)
            table.add_row(kind, *(f"{figure:,.0f}" for figure in used))
            manifest.unlink()
    return table


_PART = 100_000


def _rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        image = f"https://images.example.com/catalogue/{number % 997}/product-{number:07}.jpg"
        yield {"id": f"SKU-{number:07}", "image": image, "steps": 20 + number % 5}


def _write_csv(path: Path, count: int) -> None:
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, ["id", "image", "steps"])
        lines.writeheader()
        lines.writerows(_rows(count))


def _write_jsonl(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in _rows(count))


def _write_parquet(path: Path, count: int) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([("id", pa.string()), ("image", pa.string()), ("steps", pa.int64())])
    rows = _rows(count)
    with ParquetWriter(path, schema) as table:
        # a part at a time: what this process has needed at most would be taken for the command's peak
        while part := list(islice(rows, _PART)):
            table.write_table(pa.Table.from_pylist(part, schema))


_KINDS: dict[str, Callable[[Path, int], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
