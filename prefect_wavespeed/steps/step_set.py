"""The three steps of a job: submit, poll, download.

Each may be repeated, at any time, in any process, by any number of runners at once: the ledger makes sure
that a job is billed once. When one starts again on a job that is

- done: its side-car is returned, and WaveSpeedAI is not asked anything;
- submitted: the same prediction is joined;
- claimed by another runner: its submission is waited for;
- claimed by a runner that is gone, or submitted with the answer lost: the account's history is searched for
  the prediction, and the job is submitted again only when there is none.
"""

from __future__ import annotations

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.errors import ConfigurationError, RestyleError
from prefect_wavespeed.job import Job, NsfwRules, Restyled, RunInfo
from prefect_wavespeed.settings import Settings, get_settings
from prefect_wavespeed.steps.attempts import Admit, Polled, Submitted
from prefect_wavespeed.steps.await_prediction import PredictionWait
from prefect_wavespeed.steps.collect_outputs import OutputStep
from prefect_wavespeed.steps.context import OnThumbnail, StepContext
from prefect_wavespeed.steps.notebook import with_thumbnails
from prefect_wavespeed.steps.submit_job import Submission
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from prefect_wavespeed.storage.store import Store

_NSFW = NsfwRules()


class StepSet:
    """The steps, on one client and one store.

    Args:
        client: the API.
        store: where the ledger and the outputs are.
        settings: times; by default those of the environment.
        admit: awaited just before each claim with the job, the attempt's number and its price in USD (None
            where it is not known). It paces, and may raise a RestyleError to refuse: then nothing has been
            claimed or sent. It is awaited again, with the same number, where the claim went to another runner
            or was given back after a 429.
        on_thumbnail: called with a small JPEG (128 pixels at most, 2 to 3 KB) of each output that is stored,
            from the same decoding that verifies it, and of the source where it is read to be uploaded.
        inbox: where webhooks arrive; none by default.

    Attributes:
        prices: what jobs cost.

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
        self._context = StepContext(client, store, settings, inbox or WebhookInbox(), on_thumbnail)
        self._admit = admit
        self._prediction_wait = PredictionWait(self._context)
        self._output_step = OutputStep(self._context)
        self.prices = self._context.prices

    def expect_new(self, job: Job) -> None:
        """Let the next ``submit`` of a job claim it before it looks at it.

        For a job of which a listing showed nothing, however long ago: if it is not new any more, ``submit``
        finds that out once it holds the claim, before anything is sent.
        """
        self._context.memory.keep_new(job)

    async def submit(
        self,
        job: Job,
        *,
        run: RunInfo,
        max_cost_usd: float | None = None,
        nsfw: NsfwRules = _NSFW,
        retry_failed: bool = False,
        after: int = 0,
        webhook_url: str | None = None,
    ) -> Submitted:
        """Make sure that the job is submitted, once, and return its prediction.

        Args:
            job: what to do.
            run: the run that does it.
            max_cost_usd: refuse if the price in USD is higher, or the balance is lower than the price.
            nsfw: what will be done with flagged and unchecked outputs, also by a run that finishes the job.
            retry_failed: try again where the job has failed for good before.
            after: the attempt that is known to have failed; 0 for none.
            webhook_url: https URL that WaveSpeedAI calls when the prediction has ended.

        Raises:
            PredictionFailedError: the job has failed for good.
            BudgetExceededError, InsufficientCreditsError: refused before anything was sent.
            AuthenticationError, InvalidRequestError, NotFoundError: WaveSpeedAI refused the request.
            RateLimitedError, UnavailableError: WaveSpeedAI is not available now.
            UnansweredSubmissionError: several submissions were not answered and created nothing; it is down.
            UnsureSubmissionError: nothing tells whether the job was submitted before; nothing was sent.
            SourceError: the source cannot be used.
            StoreError, UnsafeStoreError: the store cannot be relied on; nothing was sent.
        """
        submitted = await Submission(
            self._context,
            job,
            run=run,
            admit=self._admit,
            max_cost_usd=max_cost_usd,
            nsfw=nsfw,
            retry_failed=retry_failed,
            after=after,
            webhook_url=webhook_url,
        ).run()
        self._let_show(submitted)
        return submitted

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """Wait until the prediction has ended.

        Returns:
            Completed; or failed in a way that allows another attempt, so that ``submit(after=…)`` comes next.

        Raises:
            PredictionFailedError: the job has failed for good; its dead letter is written.
            PredictionTimeoutError: not ready within RESTYLE_POLL_TIMEOUT_SECONDS; the job stays open.
            AuthenticationError: the key is refused.
        """
        polled = await self._prediction_wait.poll(job, submitted)
        if not polled.completed:
            await self._context.note_error(job, submitted.attempt, polled.error)
        return polled

    async def download(
        self, job: Job, submitted: Submitted, *, run: RunInfo, nsfw: NsfwRules = _NSFW
    ) -> Restyled:
        """Download, verify and store the outputs of a completed prediction, and close the job.

        Args:
            job: what was asked for.
            submitted: its prediction.
            run: the run that does it.
            nsfw: what to do with flagged and unchecked outputs.

        Raises:
            OutputError: an output cannot be downloaded whole; the job stays open.
            RestyleError: the API or the store is not available now; the job stays open.
        """
        try:
            restyled = await self._output_step.download(job, submitted, run, nsfw)
        except RestyleError as error:
            await self._context.note_error(job, submitted.attempt, error.message)
            raise
        return with_thumbnails(restyled, self._context.store)

    def _let_show(self, found: Submitted | None) -> None:
        if found and found.restyled:
            with_thumbnails(found.restyled, self._context.store)
