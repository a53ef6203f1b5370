"""A flow's retries are for what may pass; the rest ends the run at once."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from restyle.errors import clean


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
        get_run_logger().warning("the run's retries could not be taken back: %s", clean(error))
