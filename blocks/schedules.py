"""Of which day a flow run is: that of its scheduled time, in the time zone of its schedule."""

from __future__ import annotations

from datetime import date
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import FlowRunContext

from prefect_wavespeed.batch.manifest.partition import day_at
from prefect_wavespeed.errors import ConfigurationError

_LABEL = "restyle.date"


async def day_of_run() -> date:
    """The day of the present flow run, or of the run in which it is a subflow.

    It is decided once and kept as a label of that run: a retry is of the same day, even if its deployment has
    another schedule by then.

    Raises:
        ConfigurationError: it cannot be told, as `zone_of`; or this machine does not know the time zone.
    """
    async with get_client() as client:
        run = await client.read_flow_run(UUID(runtime.flow_run.root_flow_run_id))
        if decided := run.labels.get(_LABEL):
            return date.fromisoformat(str(decided))
        deployment = await client.read_deployment(run.deployment_id) if run.deployment_id else None
        creator = getattr(run.created_by, "id", None)
        zone = zone_of(deployment, creator) if deployment else None
        day = day_at(run.expected_start_time or runtime.flow_run.scheduled_start_time, zone)
        await client.update_flow_run_labels(run.id, {_LABEL: day.isoformat()})
        return day


async def rename_run(name: str) -> None:
    """Give the present flow run another name, in Prefect and in what it says of itself."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        async with get_client() as client:
            await client.set_flow_run_name(context.flow_run.id, name)
        context.flow_run.name = name


def zone_of(deployment: DeploymentResponse, creator: UUID | None = None) -> str:
    """The time zone in which a run of a deployment has its day; UTC if it has no schedule.

    Args:
        deployment: the run's.
        creator: id of what made the run. If that was a schedule, its time zone counts, else that of all.

    Raises:
        ConfigurationError: its schedules have different time zones, and none of them made the run.
    """
    for saved in deployment.schedules:
        if creator and creator == saved.id:
            return _zone(saved)
    if len(different := zones_of(deployment)) > 1:
        raise ConfigurationError(
            f"date: not given, and the schedules of deployment {deployment.name} are in different time zones "
            f"({', '.join(different)}): give the day, as 2026-11-01"
        )
    return different[0]


def zones_of(deployment: DeploymentResponse) -> list[str]:
    """The different time zones of a deployment's schedules; UTC if it has none."""
    return sorted(set(map(_zone, deployment.schedules))) or ["UTC"]


def _zone(saved: DeploymentSchedule) -> str:
    return getattr(saved.schedule, "timezone", None) or "UTC"
