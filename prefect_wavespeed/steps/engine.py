"""One image at a time, without Prefect."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, Restyled, RunInfo, UncheckedPolicy
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.steps.run_job import make_job, run_job
from prefect_wavespeed.steps.step_set import StepSet
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.version import package_version

_DEFAULT = ReduxParams()


class Engine:
    """Restyles images through a client into a store, and bills each once.

    It shares the ledger with flows and commands that use the same output. To pace, to bound how many are in
    flight, or to hold a budget over many images, use ``StepSet`` and ``run_job`` as this class does.

    Args:
        client: the API; it stays yours to close.
        store: where the ledger and the outputs are.
        settings: times; by default those of the environment.

    Raises:
        ConfigurationError: the client's submit timeout is so long that two runners could submit one job.
    """

    def __init__(self, client: WaveSpeedClient, store: Store, settings: Settings | None = None) -> None:
        self._store = store
        self._steps = StepSet(client, store, settings)

    async def restyle(
        self,
        image: str,
        params: ReduxParams = _DEFAULT,
        *,
        variant: int = 0,
        max_cost_usd: float | None = None,
        nsfw: NsfwPolicy = "keep",
        nsfw_unchecked: UncheckedPolicy = "quarantine",
        retry_failed: bool = False,
    ) -> Restyled:
        """Take the job of an image from where it is to its end; a job that is done costs nothing.

        Args:
            image: https URL, ``s3://bucket/key``, or a local path.
            params: how to restyle it.
            variant: another picture of the same source: 0, 1, 2, …
            max_cost_usd: refuse before anything is sent when the price is higher.
            nsfw: what to do with flagged outputs: keep them, put them under ``quarantine/``, or drop them.
            nsfw_unchecked: what to do with outputs of which WaveSpeedAI does not say whether they are safe:
                put them under ``quarantine/``, or keep them. If ``nsfw`` is keep, they are kept.
            retry_failed: try again where the job has failed for good before. That may be billed.

        Raises:
            RestyleError: one of ``prefect_wavespeed.errors``.
        """
        job = await make_job(image, params, variant, self._store)
        run = RunInfo(flow_run_id=str(uuid4()), package_version=package_version())
        rules = NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked)
        submit = partial(
            self._steps.submit, run=run, max_cost_usd=max_cost_usd, nsfw=rules, retry_failed=retry_failed
        )
        download = partial(self._steps.download, run=run, nsfw=rules)
        return await run_job(job, submit, self._steps.poll, download)
