"""A public suite of test images in one batch: what is accepted, what is not, and why.

The suite is Pillow's own, which its source distribution has; pip fetches that from wherever it is set up to.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.records import report_rows

_KINDS = 5  # of refused files that a reason of the table names


def pillow_images(folder: Path) -> list[Path]:
    """The test images of the installed Pillow's source distribution.

    Args:
        folder: where they are put.

    Raises:
        subprocess.CalledProcessError: pip cannot get it.
    """
    pinned = f"pillow=={version('pillow')}"
    command = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "pillow",
        "--dest",
        str(folder),
        pinned,
    ]
    subprocess.run([sys.executable, *command], check=True)
    (archive,) = folder.glob("*.tar.gz")
    # tarfile's filter, without which it should not be used, is not in the Python of Debian 12
    extract = [
        "tar",
        "--extract",
        "--file",
        str(archive),
        "--directory",
        str(folder),
        "--wildcards",
        "*/Tests/images/*",
    ]
    subprocess.run(extract, check=True)
    return sorted(path for path in folder.glob("*/Tests/images/**/*") if path.is_file())


@dataclass(frozen=True)
class Carried:
    """How a batch went.

    Attributes:
        peak_mb: the most memory that its process had.
    """

    summary: Summary
    rows: list[ReportRow]
    peak_mb: int


def restyle_all(
    rows: Iterable[dict[str, Any]],
    folder: Path,
    emulator: Emulator,
    prefect: PrefectServer,
    memory_mb: int | None = None,
) -> Carried:
    """Restyle rows of a manifest with the command, in a process of its own.

    Args:
        rows: of the manifest.
        folder: where manifest and output are put.
        emulator, prefect: that it runs against.
        memory_mb: a limit for the process's data.
    """
    manifest, limit = folder / "manifest.jsonl", str(memory_mb or "")
    manifest.write_text("\n".join(map(json.dumps, rows)))
    options = ["--on-bad-row", "skip", "--max-failed", "1", "--size", "256*256", "--json"]
    arguments = ["batch", str(manifest), "--out", str(folder / "out"), *options]
    env = {"WAVESPEED_API_KEY": "key", "WAVESPEED_BASE_URL": emulator.url, "MEMORY_LIMIT_MB": limit}
    ended = prefect.python("-m", "tests.support.batch_runner", *arguments, env=env).ended(1800)
    peak = re.search(r"^peak (\d+) MB$", ended.stderr, re.MULTILINE)
    if ended.status or peak is None:
        raise RuntimeError(f"{ended}")
    summary = Summary.model_validate_json(ended.stdout)
    report = report_rows((Path(summary.report) / "report.jsonl").read_bytes())
    return Carried(summary, report, int(peak[1]))


def reason(row: ReportRow) -> str:
    """What a row came to, without names and figures, so that rows can be counted by it."""
    if row.status == "stored":
        return "accepted"
    head, _, tail = (row.error_message or "").partition(": image ")
    if head.startswith("damaged"):
        head = f"{head}: {tail.rpartition(': ')[2]}"
    return re.sub(r"(?<=[ (])[\d,.×]*\d(?= pixels| bytes|\))", "N", head)


def corpus(emulator: Emulator) -> Table:
    """Restyle Pillow's test images on a Prefect server of its own, and count what became of them."""
    with tempfile.TemporaryDirectory() as name, PrefectServer(Path(name) / "prefect") as prefect:
        folder = Path(name)
        (folder / "suite").mkdir()
        images = pillow_images(folder / "suite")
        carried = restyle_all([{"image": str(path)} for path in images], folder, emulator, prefect)
    counts = Counter(map(reason, carried.rows))
    endings: dict[str, Counter[str]] = {each: Counter() for each in counts}
    for row in carried.rows:
        endings[reason(row)][Path(row.image).suffix.lower() or "none"] += 1
    title = (
        f"{len(images):,} test images of Pillow {version('pillow')} in one batch: peak {carried.peak_mb} MB"
    )
    table = Table("what became of it", "files", "by ending", title=title)
    for each, count in counts.most_common():
        shown = ", ".join(f"{number} {ending}" for ending, number in endings[each].most_common(_KINDS))
        table.add_row(each, f"{count:,}", shown + (" …" if len(endings[each]) > _KINDS else ""))
    return table
