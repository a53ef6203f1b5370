"""This project's batch, without Prefect: manifest, budget, ledger, verified outputs, side-cars, report."""

from __future__ import annotations

import asyncio
import json
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.contender import IMAGE, Work, contend, now
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.job import Job, RunInfo
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.open_store import open_store


async def _restyle_all(work: Work, manifest: str) -> float:
    store = open_store(work.output)
    run = RunInfo(package_version="bench", flow_run_id="bench")
    options = BatchOptions(concurrency=work.in_flight)
    async with (
        WaveSpeedClient("bench-key", work.base_url, max_connections=work.in_flight) as client,
        Batch(client, store, run, "runs/bench", options) as batch,
    ):

        async def admit(job: Job, attempt: int, usd: float | None) -> None:
            await batch.budget.take(job, attempt)

        steps = StepSet(client, store, admit=admit)
        await batch.read(manifest)
        await batch.afford()
        submit, download = partial(steps.submit, run=run), partial(steps.download, run=run)
        await batch.carry_out(
            Carrier(submit, steps.poll, download, expect_new=steps.expect_new).with_retries()
        )
        stored_at = now()
        await batch.close()
    return stored_at


def run(work: Work) -> float:
    """Restyle all images."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.jsonl"
        rows = (json.dumps({"image": IMAGE, "seed": number}) for number in range(work.images))
        manifest.write_text("\n".join(rows))
        return asyncio.run(_restyle_all(work, str(manifest)))


if __name__ == "__main__":
    contend(run)
