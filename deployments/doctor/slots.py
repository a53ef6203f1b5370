"""Slots of a concurrency limit that no run holds.

Prefect's server keeps leases in memory and the number of slots in use in its database: after a restart, slots
stay in use by nobody, and every later run waits for them.
"""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse

_HOLDING = FlowRunFilter(
    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
)


async def are_held_by_nobody(client: PrefectClient, limit: GlobalConcurrencyLimitResponse) -> bool:
    """Whether slots are in use although no flow run is running."""
    return limit.active_slots > 0 and not await client.count_flow_runs(flow_run_filter=_HOLDING)


async def free(client: PrefectClient, limit: GlobalConcurrencyLimitResponse) -> None:
    """Free all slots of a limit."""
    await client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=0))
