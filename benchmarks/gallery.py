"""The gallery of a big batch: what it costs to write, how big it is, and how soon Chromium shows it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from statistics import median

from rich.table import Table

from benchmarks.contender import cpu
from benchmarks.memory import peak_mb
from prefect_wavespeed.batch.report.gallery import write_gallery
from prefect_wavespeed.batch.report.rows import ReportRow, Summary, Thumbnails
from prefect_wavespeed.quality.thumbnails import thumbnail
from tests.support.browser import Page, chromium

_PHOTOS = Path(__file__).resolve().parent.parent / "examples"
_FOLDER = "runs/dt=2026-01-01/5f3c"
_THUMBNAILS = 40_000  # a job table keeps no more
_ROUNDS = 5
_SHOWN = (
    "document.querySelectorAll('.row').length > 3 && [...document.querySelectorAll('.row img')]"
    ".filter(image => image.getBoundingClientRect().top < innerHeight)"
    ".every(image => image.complete && image.naturalWidth)"
)
_SEARCH = (
    "(() => { const began = performance.now(); $('search').value = 'NAME'; choose();"
    " return [performance.now() - began, shownCount()]; })()"
)


def gallery(rows: int) -> Table:
    """Write the gallery of a batch with so many rows, one in fifty failed, and open it a few times."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        file = out / _FOLDER / "gallery.html"
        file.parent.mkdir(parents=True)
        before, since = peak_mb(), cpu()
        for _ in _rows(out, rows):
            pass
        making, since = cpu() - since, cpu()
        write_gallery(file, str(out), _FOLDER, lambda: _rows(out, rows), _summary(out, rows))
        writing, memory = (cpu() - since - making) / rows, peak_mb() - before
        table = Table(title=f"the gallery of {rows:,} rows")
        shown = asyncio.run(_opened(file, Path(name) / "profile")) if which("chromium") else ["–"] * 3
        for column in (
            "CPU µs\na row to write",
            "memory\nMB to write",
            "size\nMB",
            "seconds to\nthe first view",
            "CPU s of the\npage's thread",
            "ms to\nsearch",
        ):
            table.add_column(column, justify="right")
        size = file.stat().st_size / 1e6
        table.add_row(f"{writing * 1e6:.0f}", f"{memory:.0f}", f"{size:.1f}", *shown)
        return table


async def _opened(file: Path, profile: Path) -> list[str]:
    """How long a tab of Chromium takes, which is running already; the median."""
    seconds, threads, searches = [], [], []
    async with chromium(profile) as page:
        await page.call("Performance.enable", timeDomain="threadTicks")
        for number in range(1, _ROUNDS + 1):
            await page.show("about:blank")
            used, began = await _thread(page), time.monotonic()
            await page.show(file.as_uri())
            await page.until(_SHOWN)
            seconds.append(time.monotonic() - began)
            threads.append(await _thread(page) - used)
            milliseconds, found = await page.ask(_SEARCH.replace("NAME", f"{number:06}-photo"))
            if found != 1 or page.errors:
                raise RuntimeError(f"{found} found; {page.errors}")
            searches.append(milliseconds)
    return [f"{median(seconds):.2f}", f"{median(threads):.2f}", f"{median(searches):.0f}"]


async def _thread(page: Page) -> float:
    metrics = (await page.call("Performance.getMetrics"))["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def _rows(out: Path, count: int) -> Iterator[tuple[ReportRow, Thumbnails | None]]:
    small = [thumbnail(photo.read_bytes()) for photo in sorted(_PHOTOS.glob("*.jpg"))]
    for number in range(1, count + 1):
        key = f"{number * 2_654_435_761 % 2**64:016x}" * 4
        folder = f"{out}/images/{number:06}-photo-{key[:16]}"
        failed = number % 50 == 0
        row = ReportRow(
            row=number,
            id=f"sku-{number:06}",
            image=f"s3://studio-originals/catalogue/2026/autumn/{number:06}-photo.jpg",
            status="failed" if failed else "stored",
            job_key=key,
            prediction_id=key[:32],
            seed=number * 7_919 % 2**31,
            outputs=[] if failed else [f"{folder}/1.jpeg"],
            metadata_uri=None if failed else f"{folder}/metadata.json",
            cost_usd=0.025,
            attempts=1,
            error_type="PredictionFailedError" if failed else None,
            error_message="the prediction failed for good: give another picture" if failed else None,
            seconds=2 + number % 25 / 10,
        )
        if number * 2 > _THUMBNAILS:
            yield row, None
        else:  # as different from each other as those of a batch
            mark, at = number.to_bytes(4, "big"), number % len(small)
            yield row, Thumbnails(small[at] + mark, {} if failed else {1: small[at - 1] + mark})


def _summary(out: Path, rows: int) -> Summary:
    ended = datetime(2026, 1, 1, 12, tzinfo=UTC)
    return Summary(
        manifest="s3://studio-originals/autumn.jsonl",
        output=str(out),
        started=ended - timedelta(seconds=1_800),
        ended=ended,
        row_count=rows,
        counts={"stored": rows - rows // 50, "failed": rows // 50},
        jobs=rows,
        spent_usd=0.025 * rows,
        images=rows - rows // 50,
        seconds=1_800,
    )
