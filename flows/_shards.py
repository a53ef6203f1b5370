"""A batch carried out by child runs of its own deployment, wherever its work pool has workers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import date
from itertools import count
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow, State, runtime
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, ConcurrencyLimitStrategy, FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import arun_deployment
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Cancelling

from prefect_wavespeed.batch.progress import RESTYLING
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.batch.sharded_batch import ShardedBatch
from prefect_wavespeed.batch.shards import Shard
from prefect_wavespeed.errors import ConfigurationError, RestyleError, ShardFailedError, StoreError, redact
from prefect_wavespeed.flows._said import PrintableLog, run_log

_POLL_SECONDS = 3.0
_POLLS_BEFORE_WARNING = 40  # that no shard has started


async def check_room_for_shards(shards: int) -> None:
    """Find out, before anything is spent, whether the child runs could start at all.

    Raises:
        ConfigurationError: this run has no deployment, or a limit leaves no room beside it.
    """
    if runtime.deployment.id is None:
        raise ConfigurationError(
            f"shards={shards}: shards are child runs of a run's deployment, and this run has none: start it "
            "with `prefect deployment run restyle-batch/restyle-batch`, or leave shards at 1"
        )
    async with get_client() as client:
        for what, limit, needed in await _limits(client, shards):
            if limit is not None and limit < needed:
                raise ConfigurationError(
                    f"shards={shards}: {what} lets {limit} run at once, and {needed} are needed, including "
                    "this run: raise that limit, or leave shards at 1"
                )


async def _limits(client: PrefectClient, shards: int) -> list[tuple[str, int | None, int]]:
    """What may keep child runs from starting: its name, how many runs it allows, how many are needed."""
    deployment = await client.read_deployment(UUID(runtime.deployment.id))
    limits: list[tuple[str, int | None, int]] = []
    if limit := deployment.global_concurrency_limit:
        options = deployment.concurrency_options
        cancels = options and options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW
        limits.append((f"deployment {deployment.name}", limit.limit, shards + 1 if cancels else 2))
    if name := deployment.work_pool_name:
        limits.append((f"work pool {name}", (await client.read_work_pool(name)).concurrency_limit, 2))
    if queue_id := deployment.work_queue_id:
        queue = await client.read_work_queue(queue_id)
        limits.append((f"work queue {queue.name}", queue.concurrency_limit, 2))
    return limits


async def carry_out_in_shards(batch: Batch, shards: int, day: date | None) -> None:
    """Let child runs carry out the batch of a day, if its manifest has one, and join their reports.

    A retry of this run takes over those of its child runs that have not ended, and starts the rest anew.
    """
    began = runtime.flow_run.scheduled_start_time
    sharded = ShardedBatch(batch, shards, runtime.flow_run.run_count or 1, began)
    batch.recorder.doing(RESTYLING)
    async with get_client() as client:
        children = {_shard(run).number: run for run in await _running(client, runtime.flow_run.id)}
        for shard in await sharded.divide(map(_shard, children.values())):
            children[shard.number] = await _start(shard, day)
        children = await _wait_for_all(client, children, sharded)
    await sharded.finish({number: _reason(run) for number, run in children.items()})


async def _start(shard: Shard, day: date | None) -> FlowRun:
    """Create the child run of a shard; the same one however often it is called in one try of this run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise ConfigurationError("shards can only be started by a flow run")
    this = context.flow_run
    return await arun_deployment(
        UUID(runtime.deployment.id),
        parameters={
            **this.parameters,
            "date": day and day.isoformat(),
            "shard": shard.model_dump(mode="json"),
        },
        timeout=0,
        idempotency_key=f"{this.id} shard {shard.number}.{shard.attempt}",
        work_queue_name=this.work_queue_name,
        job_variables=this.job_variables,
    )


async def _wait_for_all(
    client: PrefectClient, children: dict[int, FlowRun], sharded: ShardedBatch
) -> dict[int, FlowRun]:
    """Wait until all of them have ended, joining what they have reported so far."""
    polls = count(1)
    while not all(map(_is_final, children.values())):
        await asyncio.sleep(_POLL_SECONDS)
        with suppress(httpx.TransportError, StoreError):  # passes, or is met again at the end
            children = await _current(client, children)
            await sharded.follow()
        if next(polls) == _POLLS_BEFORE_WARNING and not any(run.start_time for run in children.values()):
            run_log().warning(
                "no shard has started yet: is a worker with free capacity running? This run occupies one of "
                "its slots"
            )
    return children


async def _current(client: PrefectClient, children: dict[int, FlowRun]) -> dict[int, FlowRun]:
    """The child runs as they are now; one that was deleted counts as cancelled."""
    ids = [run.id for run in children.values()]
    runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
    by_id = {run.id: run for run in runs}
    deleted: dict[str, Any] = {"state": Cancelled(message="it was deleted")}
    return {number: by_id.get(run.id) or run.model_copy(update=deleted) for number, run in children.items()}


def _reason(run: FlowRun) -> RestyleError:
    """Why a child run that has ended may not have reported all of its jobs; logged if it ended badly."""
    state, who = run.state, f"shard {_shard(run).label}, run {run.name},"
    if state is None or state.is_completed():
        return ShardFailedError(
            f"{who} did not find it: its source or the manifest has changed: run it again"
        )
    ended = f"{who} ended as {state.name}: {redact(state.message or 'no reason was given')}"
    run_log().error("%s", ended)
    return ShardFailedError(f"{ended}: run it again to continue", retryable=state.is_crashed())


async def cancel_shards(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the child runs of a run that was cancelled. Errors are logged and otherwise ignored."""
    logger = PrintableLog(flow_run_logger(flow_run, flow), {})
    try:
        async with get_client() as client:
            for run in await _running(client, flow_run.id):
                await client.set_flow_run_state(run.id, Cancelling())
                logger.warning("shard %s, run %s, is cancelled as well", _shard(run).label, run.name)
    except Exception as error:
        logger.warning("the shards could not be cancelled: cancel them by hand (%s)", redact(error))


async def _running(client: PrefectClient, run_id: object) -> list[FlowRun]:
    """The shards of a run that have not ended."""
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(str(run_id))]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))),
        )
    )
    return [run for run in runs if run.parameters.get("shard")]


def _shard(run: FlowRun) -> Shard:
    return Shard.model_validate(run.parameters["shard"])


def _is_final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()
