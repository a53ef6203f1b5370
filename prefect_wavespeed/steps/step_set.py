"""The three steps of a job, whole: submit, poll, download.

Each may be repeated, at any time, in any process, by any number of runners at once: the ledger sees
to it that a job is billed once. What happens to one that starts again:

- done: its side-car is returned, and WaveSpeedAI is not asked anything;
- submitted: the same prediction is joined;
- claimed by another runner: its submission is waited for;
- claimed by a runner that is gone, or submitted with the answer lost: the history is searched for the
  prediction, and only when there is none is the job submitted again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from pydantic import ValidationError

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import ConfigurationError, InvalidRequestError
from prefect_wavespeed.job import Job, NsfwPolicy, Restyled, RunInfo
from prefect_wavespeed.settings import Settings, get_settings
from prefect_wavespeed.sources.identify import identify
from prefect_wavespeed.steps.attempts import MAX_ATTEMPTS, Admit, Polled, Shared, Submitted
from prefect_wavespeed.steps.await_prediction import Poller
from prefect_wavespeed.steps.collect_outputs import Downloader
from prefect_wavespeed.steps.outputs import OnThumbnail
from prefect_wavespeed.steps.submit_job import CLOCK_GRAIN, Submitter
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import requirement

__all__ = [
    "CLOCK_GRAIN",
    "MAX_ATTEMPTS",
    "Admit",
    "OnThumbnail",
    "Polled",
    "StepSet",
    "Submitted",
    "make_job",
    "run_job",
]


class SubmitStep(Protocol):
    """``submit`` of a job; ``after`` is the attempt known to have failed."""

    def __call__(self, job: Job, *, after: int) -> Awaitable[Submitted]:
        """Do it."""
        ...


class LookStep(Protocol):
    """``look`` at a job."""

    def __call__(self, job: Job) -> Awaitable[Submitted | None]:
        """Do it."""
        ...


class PollStep(Protocol):
    """``poll`` of what was submitted."""

    def __call__(self, job: Job, submitted: Submitted) -> Awaitable[Polled]:
        """Do it."""
        ...


class DownloadStep(Protocol):
    """``download`` of what is completed."""

    def __call__(self, job: Job, submitted: Submitted) -> Awaitable[Restyled]:
        """Do it."""
        ...


async def make_job(image: str, params: ReduxParams, variant: int, store: Store) -> Job:
    """Find out what is asked for, and refuse what cannot be done, before anything is spent.

    Args:
        image: https URL, ``s3://bucket/key``, or a local path.
        params: how to restyle it.
        variant: another picture of the same source: 0, 1, 2, …
        store: where the outputs go.

    Raises:
        SourceError: the source is missing, no image, or too big.
        InvalidRequestError: an explicit seed together with a variant, or a negative variant.
    """
    source = await identify(image, store)
    try:
        return Job(source=source, params=params, variant=variant)
    except ValidationError as error:
        said = requirement(error.errors()[0])
        raise InvalidRequestError(f"variant {variant}: {said}", field="variant") from None


async def run_job(
    job: Job,
    submit: SubmitStep,
    poll: PollStep,
    download: DownloadStep,
    slot: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
    look: LookStep | None = None,
) -> Restyled:
    """Take a job from wherever it is to its end.

    Args:
        job: what to do.
        submit, poll, download: those of ``StepSet``, or tasks around them.
        slot: a slot in flight, held from the submission until the prediction is known to have ended;
            the download needs none.
        look: ``StepSet.look``, if a done job is to take no place, and a new one to be claimed as soon as it
            has its place.
    """
    if look and (found := await look(job)) and found.restyled:
        return found.restyled
    after = 0
    while True:
        async with slot():
            submitted = await submit(job, after=after)
            if submitted.restyled:
                return submitted.restyled
            polled = await poll(job, submitted)
        if polled.completed:
            return await download(job, submitted)
        after = submitted.attempt


class StepSet:
    """The steps, on one client and one store.

    Args:
        client: the API.
        store: where the ledger and the outputs are.
        settings: times; by default those of the environment.
        admit: awaited just before each claim with the job, the attempt's number and its price in USD (None
            where it is not known). It paces, and may raise a RestyleError to refuse: then nothing has been
            claimed or sent. Asked again, with the same number, where the claim went to another runner or
            was given back after a 429.
        on_thumbnail: given a small JPEG of each output that is stored (128 pixels at most, 2 to 3 KB), from
            the same decoding that verifies it.
        inbox: what webhooks tell; nothing by default.

    Attributes:
        quotes: what jobs cost.

    Raises:
        ConfigurationError: the client's submit timeout is so long that two runners could submit one job.
    """

    def __init__(
        self,
        client: WaveSpeedClient,
        store: Store,
        settings: Settings | None = None,
        *,
        admit: Admit | None = None,
        on_thumbnail: OnThumbnail | None = None,
        inbox: WebhookInbox | None = None,
    ) -> None:
        settings = settings or get_settings()
        if client.submit_timeout >= settings.lease_seconds / 2:
            raise ConfigurationError(
                f"submit_timeout ({client.submit_timeout:g} s) must be less than half of "
                f"RESTYLE_LEASE_SECONDS ({settings.lease_seconds:g} s): otherwise two runners could "
                "submit one job"
            )
        shared = Shared(client, store, settings, inbox or WebhookInbox())
        self.prices = shared.prices
        self._submitter = Submitter(shared, admit)
        self._poller = Poller(shared)
        self._downloader = Downloader(shared, on_thumbnail)

    async def look(self, job: Job) -> Submitted | None:
        """Find out whether there is anything to do, before a place in flight is taken for it.

        Returns:
            What is stored, of a job that is done; None otherwise. Where nothing is there of the job yet,
            ``submit`` claims it without looking again.

        Raises:
            StoreError, UnsafeStoreError: the store cannot be relied on.
        """
        return await self._submitter.look(job)

    async def submit(
        self,
        job: Job,
        *,
        run: RunInfo,
        max_cost_usd: float | None = None,
        nsfw: NsfwPolicy = "keep",
        retry_failed: bool = False,
        after: int = 0,
        webhook_url: str | None = None,
    ) -> Submitted:
        """Make sure that the job is submitted, once, and return its prediction.

        Args:
            job: what to do.
            run: who does it.
            max_cost_usd: refuse if the price, or the price on this balance, is more than can be paid.
            nsfw: what will be done with flagged outputs, for whoever finishes the job if this run cannot.
            retry_failed: go again where the job has failed for good earlier.
            after: the attempt that is known to have failed; 0 for none.
            webhook_url: https URL that WaveSpeedAI tells when the prediction is ready.

        Raises:
            PredictionFailedError: the job has failed for good.
            BudgetExceededError, InsufficientCreditsError: refused before anything was sent.
            AuthenticationError, InvalidRequestError, NotFoundError: WaveSpeedAI refused the request.
            RateLimitedError, UnavailableError: WaveSpeedAI cannot take or tell anything now.
            SourceError: the source cannot be used.
            StoreError, UnsafeStoreError: the store cannot be relied on; nothing was sent.
        """
        return await self._submitter.submit(
            job,
            run=run,
            max_cost_usd=max_cost_usd,
            nsfw=nsfw,
            retry_failed=retry_failed,
            after=after,
            webhook_url=webhook_url,
        )

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """Wait until the prediction is ready.

        Returns:
            Completed; or failed in a way that may be tried again, so that ``submit(after=…)`` comes next.

        Raises:
            PredictionFailedError: the job has failed for good; its dead letter is written.
            PredictionTimeoutError: not ready within the local timeout; the job stays open.
            AuthenticationError: the key is refused.
        """
        return await self._poller.poll(job, submitted)

    async def download(
        self, job: Job, submitted: Submitted, *, run: RunInfo, nsfw: NsfwPolicy = "keep"
    ) -> Restyled:
        """Fetch, verify and store the outputs of a completed prediction, and close the job.

        Args:
            job: what was asked for.
            submitted: its prediction.
            run: who does it.
            nsfw: what to do with flagged outputs: keep them, put them under ``quarantine/``, or drop them.

        Raises:
            OutputError: an output cannot be had whole; the job stays open.
            RestyleError: the API or the store cannot be used now; the job stays open.
        """
        return await self._downloader.download(job, submitted, run, nsfw)
