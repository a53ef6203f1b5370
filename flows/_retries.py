"""A flow's retries are for what may pass; the rest ends the run at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from prefect_wavespeed.errors import RestyleError, redact, worth_retrying


@asynccontextmanager
async def retried_where_it_helps(*also: type[RestyleError]) -> AsyncIterator[None]:
    """Let an error end the flow run under way at once, unless it may pass.

    Args:
        also: kinds of errors that may pass as well.
    """
    try:
        yield
    except RestyleError as error:
        if not (worth_retrying(error) or isinstance(error, also)):
            await no_further_retries()
        raise


async def no_further_retries() -> None:
    """Take from the flow run under way the retries that it has left.

    Prefect retries a flow after any exception: its retry policy, kept at the server, is the only say.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        async with get_client() as client:
            run = await client.read_flow_run(context.flow_run.id)
            policy = run.empirical_policy.model_copy(update={"retries": 0})
            await client.update_flow_run(run.id, empirical_policy=policy)
    except Exception as error:  # then it is retried in vain, and the ledger bills nothing twice
        get_run_logger().warning("the run's retries could not be taken back: %s", redact(error))
