"""Whether an attempt may be submitted: within the budget, and unless submitting has stopped."""

from __future__ import annotations

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.budget import Budget
from prefect_wavespeed.errors import (
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    RestyleError,
)
from prefect_wavespeed.job import Job
from prefect_wavespeed.steps.prices import PriceCache


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
        self._client = client
        self._prices = prices
        self._budget = budget

    async def admit(self, job: Job, attempt: int) -> None:
        """Let an attempt be submitted.

        Raises:
            BudgetExceededError: the cap does not cover it.
            StoppedError: nothing more is submitted.
        """
        if self.stopped:
            raise StoppedError(self.stopped.message)
        await self._budget.take(job, attempt)

    async def stop_if_hopeless(self, job: Job, error: RestyleError) -> None:
        """Stop submitting after an error that every further submission would meet."""
        if self.stopped is None and await self._is_hopeless(job, error):
            self.stopped = error

    async def _is_hopeless(self, job: Job, error: RestyleError) -> bool:
        """A 401, 402 or 403 may be about one image only, so the balance call is asked as well."""
        if isinstance(error, BudgetExceededError):
            return True
        if not isinstance(error, AuthenticationError | InsufficientCreditsError):
            return False
        try:
            balance = await self._client.balance()
            price = await self._prices.price(job.request("-"), max_age=0.0)
        except AuthenticationError:
            return True
        except RestyleError:
            return False
        return isinstance(error, InsufficientCreditsError) and balance < price.usd
