"""A flow's retries are for errors that may pass; any other error ends its run at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from prefect_wavespeed.errors import RestyleError, redact, worth_retrying
from prefect_wavespeed.flows._said import run_log


@asynccontextmanager
async def retry_only(worth: Callable[[RestyleError], bool] = worth_retrying) -> AsyncIterator[None]:
    """Retry the current flow run only after errors for which that makes sense.

    Args:
        worth: whether to retry after an error.
    """
    try:
        yield
    except RestyleError as error:
        if not worth(error):
            await _drop_retries()
        raise


async def _drop_retries() -> None:
    """Take away the retries that the current flow run has left.

    Prefect retries a flow after any exception; only the run's policy, which its server keeps, can stop it.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        async with get_client() as client:
            run = await client.read_flow_run(context.flow_run.id)
            policy = run.empirical_policy.model_copy(update={"retries": 0})
            await client.update_flow_run(run.id, empirical_policy=policy)
    except Exception as error:  # then it is retried in vain, and the ledger still bills nothing twice
        run_log().warning("retrying this run may not help: %s", redact(error))
