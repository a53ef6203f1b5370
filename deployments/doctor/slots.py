"""Slots of a concurrency limit that no run holds.

Prefect's server keeps leases in memory and the number of slots in use in its database: after a restart, slots
stay in use by nobody, and every later run waits for them.
"""

from __future__ import annotations

import asyncio

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse

SECONDS_APART = 5.0
"""Between the two looks at a limit before its slots are freed."""

_HOLDING = FlowRunFilter(
    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
)


async def are_held_by_nobody(client: PrefectClient, limit: GlobalConcurrencyLimitResponse) -> bool:
    """Whether slots are in use although no flow run is running."""
    return limit.active_slots > 0 and not await client.count_flow_runs(flow_run_filter=_HOLDING)


async def free(client: PrefectClient, seen: GlobalConcurrencyLimitResponse) -> bool:
    """Free all slots of a limit, unless something has changed some seconds after the first look.

    Only for a limit that flow runs alone use: whatever else holds slots is not seen.

    Args:
        client: of Prefect's API.
        seen: the limit when its slots were found to be held by nobody.

    Returns:
        Whether they were freed: again no flow run is running, and as many slots are in use.
    """
    await asyncio.sleep(SECONDS_APART)
    limit = await client.read_global_concurrency_limit_by_name(seen.name)
    if limit.active_slots != seen.active_slots or not await are_held_by_nobody(client, limit):
        return False
    await client.update_global_concurrency_limit(seen.name, GlobalConcurrencyLimitUpdate(active_slots=0))
    return True
