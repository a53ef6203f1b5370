"""Whether an attempt may be submitted: within the budget, and unless submitting has stopped."""

from __future__ import annotations

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.errors import (
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    NotFoundError,
    OutputMissingError,
    RateLimitedError,
    RestyleError,
    UnansweredSubmissionError,
    UnavailableError,
)
from prefect_wavespeed.job import Job
from prefect_wavespeed.retry import LONGEST_WAIT
from prefect_wavespeed.steps.prices import PriceCache

_DOWN = 10
"""Jobs in a row whose submissions were not answered, or may have been while the history does not tell, until
the API counts as down. At the end of a batch only those are left that had no luck so far, so that a few in a
row say little."""

_REFUSED = 3
"""Jobs in a row that were refused for the key, for lack of credits or as unknown, until that is no longer put
down to their images: the balance call may know less than the submission does."""


class StoppedError(RestyleError):
    """Nothing more is submitted."""


class Gate:
    """Admits attempts until an error occurs that every further submission would meet.

    Args:
        client: asked for the balance.
        prices: what jobs cost.
        budget: what attempts are taken from.

    Attributes:
        stopped: why nothing more is submitted; None while submitting goes on.
    """

    def __init__(self, client: WaveSpeedClient, prices: PriceCache, budget: Budget) -> None:
        self.stopped: RestyleError | None = None
        self._unanswered = 0  # jobs in a row that were left open because nothing was answered
        self._refused = 0  # jobs in a row that were refused as all others would be
        self._client = client
        self._prices = prices
        self._budget = budget

    async def admit(self, job: Job, attempt: int) -> None:
        """Let an attempt be submitted.

        Raises:
            BudgetExceededError: the cap does not cover it.
            StoppedError: nothing more is submitted.
        """
        self.check_open()
        await self._budget.take(job, attempt)

    def check_open(self) -> None:
        """Raise ``StoppedError`` if nothing more is submitted."""
        if self.stopped:
            raise StoppedError(self.stopped.message)

    def answered(self, *, fresh: bool) -> None:
        """Note that a job has its prediction.

        Args:
            fresh: it was submitted just now, so that neither key nor credits can be what others lack.
        """
        self._unanswered = 0
        if fresh:
            self._refused = 0

    async def stop_if_hopeless(self, job: Job, error: RestyleError) -> None:
        """Stop submitting after an error that every further submission would meet."""
        if self.stopped is None and await self._is_hopeless(job, error):
            self.stopped = error

    async def _is_hopeless(self, job: Job, error: RestyleError) -> bool:
        """A 401, 402, 403 or 404 may be about one image only: the balance call or two others must agree."""
        if isinstance(error, BudgetExceededError | OutputMissingError):
            return True
        is_down = isinstance(error, UnavailableError) and error.may_be_billed  # nor does the history tell
        if is_down or isinstance(error, UnansweredSubmissionError):  # one may be that image's fault
            self._unanswered += 1
            return self._unanswered >= _DOWN
        if isinstance(error, RateLimitedError):
            return (error.retry_after or 0.0) > LONGEST_WAIT
        is_unknown = isinstance(error, NotFoundError) and not error.prediction_id  # the model, or the address
        if not is_unknown and not isinstance(error, AuthenticationError | InsufficientCreditsError):
            return False
        self._refused += 1
        if self._refused >= _REFUSED or is_unknown:
            return self._refused >= _REFUSED
        try:
            balance = await self._client.balance()
            price = await self._prices.price(job.request("-"), max_age=0.0)
        except AuthenticationError:
            return True
        except RestyleError:
            return False
        return isinstance(error, InsufficientCreditsError) and balance < price.usd
