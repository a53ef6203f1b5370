"""Automations that keep accepted work from being lost. Those that start deployments are in prefect.yaml."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from prefect_wavespeed.blocks.names import OBJECT_DEPLOYMENT, TAG
from prefect_wavespeed.deployments.setup.report import report

_OURS: Any = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
_OBJECTS: Any = {"prefect.resource.role": "flow", "prefect.resource.name": OBJECT_DEPLOYMENT}


def _states(*names: str) -> set[str]:
    return {f"prefect.flow-run.{name}" for name in names}


_ALIVE = _states("heartbeat", "Running", "Retrying")
_WAITING = _states("Pending", "Submitting", "InfrastructurePending")
_ELSEWHERE = _states(
    "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot", "Cancelling", "Suspended", "Paused"
)
_ENDED = _states("Completed", "Failed", "TimedOut", "Crashed", "Cancelled")

AUTOMATIONS = [
    # Heartbeats come every 30 s (prefect.yaml), the first at once. A process that was killed cannot report
    # it. Only a run that was heard of falls silent: without websockets no heartbeat ever arrives.
    AutomationCore(
        name="restyle: lost runs",
        description="A run whose heartbeats have stopped has crashed.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            after=_states("heartbeat"),
            expect=_states("heartbeat") | _ENDED | _ELSEWHERE,
            posture=Posture.Proactive,
            within=timedelta(seconds=90),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat for 90 s: the process of this run is gone.",
            )
        ],
    ),
    # Also for a run that reported it itself, as when its worker ends. The flow limits how often.
    AutomationCore(
        name="restyle: retry objects after a crash",
        description="A crashed run of an object is started again; nothing is billed twice.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[_OURS, _OBJECTS],
            expect=_states("Crashed"),
            posture=Posture.Reactive,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="Started again after a crash.",
            )
        ],
    ),
    AutomationCore(
        name="restyle: runs that never started",
        description="A run whose worker died before starting it is given to another worker.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            after=_WAITING,
            expect=_ALIVE | _ENDED | _ELSEWHERE,
            posture=Posture.Proactive,
            within=timedelta(minutes=5),  # a node may have to pull the image first
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="Not started by its worker within 5 minutes.",
            )
        ],
    ),
]


async def set_up_automations() -> None:
    """Create them, or update those of the same name; a disabled one stays disabled."""
    async with get_client() as client:
        for automation in AUTOMATIONS:
            thing = f"automation/{automation.name}"
            saved = await client.read_automations_by_name(automation.name)
            if not saved:
                await client.create_automation(automation)
                report("created", thing, automation.description)
            elif _definition(saved[0]) == _definition(automation):
                report("found", thing, "unchanged" if saved[0].enabled else "unchanged, and disabled")
            else:
                updated = automation.model_copy(update={"enabled": saved[0].enabled})
                await client.update_automation(saved[0].id, updated)
                report("updated", thing, automation.description)


def _definition(automation: AutomationCore | Automation) -> object:
    return automation.description, automation.trigger, automation.actions
