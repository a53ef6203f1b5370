"""A batch through the engine, without Prefect."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import OnProgress
from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.errors import RestyleError
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.store import Store
from tests.support.engine import QUICK
from tests.support.records import report_rows

SITE = "https://example.com"


@dataclass
class Finished:
    """What came of a batch: its summary and rows as they were stored, and why it counts as failed."""

    summary: Summary
    rows: list[ReportRow]
    error: RestyleError | None
    store: Store
    folder: str

    @property
    def statuses(self) -> list[str]:
        """What became of each row."""
        return [row.status for row in self.rows]


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write a JSONL manifest, and return its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pictures(count: int, **more: Any) -> list[dict[str, Any]]:
    """Rows for so many different pictures, for an emulator that serves one made beforehand."""
    return [{"image": f"{SITE}/{n}.jpg", "id": f"n{n}", **more} for n in range(1, count + 1)]


async def restyle_all(
    base_url: str,
    output: str | Store,
    manifest: str | Sequence[str],
    options: BatchOptions | None = None,
    *,
    settings: Settings = QUICK,
    key: str = "test-key",
    run_id: str | None = None,
    since: datetime | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Finished:
    """Carry a batch out, and read its report back.

    Raises:
        RestyleError: it was refused before anything was submitted.
    """
    options = options or BatchOptions()
    store = open_store(output) if isinstance(output, str) else output
    run = RunInfo(package_version="test", flow_run_id=run_id or str(uuid4()))
    folder = layout.run(datetime.now(UTC), str(run.flow_run_id))
    submit_timeout = settings.submit_timeout_seconds
    async with (
        WaveSpeedClient(key, base_url, submit_timeout=submit_timeout, timeout=2) as client,
        Batch(client, store, run, folder, options, since=since, on_progress=on_progress) as batch,
    ):
        await batch.read(manifest)
        await batch.afford()

        async def admit(job: Any, attempt: int, usd: float | None) -> None:
            await batch.admit(job, attempt)

        steps = StepSet(client, store, settings, admit=admit, on_thumbnail=batch.table.keep_thumbnail)
        submit = partial(steps.submit, run=run, nsfw=options.nsfw_rules, retry_failed=options.retry_failed)
        download = partial(steps.download, run=run, nsfw=options.nsfw_rules)
        await batch.carry_out(
            Carrier(submit, steps.poll, download, expect_new=steps.expect_new).with_retries()
        )
        summary = await batch.close()
        report = await store.get(f"{folder}/report.jsonl")
        assert report is not None
        return Finished(summary, report_rows(report), batch.verdict(summary), store, folder)
