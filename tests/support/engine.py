"""One image through the engine, without Prefect: for tests of the ledger and the steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, Restyled, RunInfo, UncheckedPolicy
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.steps.run_job import make_job, run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from prefect_wavespeed.storage.open_store import open_store
from prefect_wavespeed.storage.store import Store

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"
SMALL = ReduxParams(size="256*256")
# As short as the emulator's latency allows, and still in the order that the ledger relies on.
QUICK = Settings(lease_seconds=4, submit_timeout_seconds=1, reconcile_seconds=1, poll_timeout_seconds=8)


async def restyle(
    base_url: str,
    output: str | Store,
    image: str | Path = PHOTO,
    params: ReduxParams = SMALL,
    *,
    variant: int = 0,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
    settings: Settings = QUICK,
    key: str = "test-key",
    run_id: str | None = None,
    inbox: WebhookInbox | None = None,
    listed_as_new: bool = False,
    **terms: Any,
) -> Restyled:
    """Restyle one image, from wherever its job is to its end; without ``run_id``, as a run of its own.

    ``listed_as_new``: it goes by a listing, of whatever age, that held nothing of the job.
    """
    run = RunInfo(package_version="test", flow_run_id=run_id or str(uuid4()))
    store = open_store(output) if isinstance(output, str) else output
    job = await make_job(str(image), params, variant, store)
    submit_timeout = settings.submit_timeout_seconds
    async with WaveSpeedClient(key, base_url, submit_timeout=submit_timeout, timeout=2) as client:
        steps = StepSet(client, store, settings, inbox=inbox)
        rules = NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked)
        if listed_as_new:
            steps.expect_new(job)
        return await run_job(
            job,
            partial(steps.submit, run=run, nsfw=rules, **terms),
            steps.poll,
            partial(steps.download, run=run, nsfw=rules),
        )
