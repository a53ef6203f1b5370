"""What a task knows of the run that it is part of: its batch, and who is running, for the side-car."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import prefect
from prefect import runtime
from prefect.context import FlowRunContext

from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.job import RunInfo
from prefect_wavespeed.version import git_commit, package_version

current_batch: ContextVar[Batch | None] = ContextVar("current_batch", default=None)
"""The batch that this flow run carries out, if it does: too large to be a task's parameter."""

_task_run_ids: ContextVar[list[str] | None] = ContextVar("task_run_ids", default=None)


def collect_task_runs() -> None:
    """Start a new list of task runs for `run_info`, in this asyncio task."""
    _task_run_ids.set([])


@contextmanager
def collecting_task_runs() -> Iterator[None]:
    """Give the code inside a list of task runs of its own for `run_info`."""
    token = _task_run_ids.set([])
    try:
        yield
    finally:
        _task_run_ids.reset(token)


def record_task_run() -> list[str]:
    """Add the current task run, if there is one, to those collected, and return their ids."""
    collected, current = _task_run_ids.get(), runtime.task_run.id
    if collected is None:
        collected = []
    if current and current not in collected:
        collected.append(current)
    return collected


def run_info() -> RunInfo:
    """Who is running now, with the task runs up to this one. In a shard: the run that started it."""
    changes: dict[str, Any] = {"task_run_ids": list(record_task_run())}
    if batch := current_batch.get():
        changes |= {"flow_run_id": batch.run.flow_run_id, "flow_run_name": batch.run.flow_run_name}
    return _run_of(runtime.flow_run.id).model_copy(update=changes)


@lru_cache(maxsize=100)
def _run_of(flow_run_id: str | None) -> RunInfo:
    """The current flow run, whose id this is: Prefect looks for each of these in four places."""
    return RunInfo(
        flow=runtime.flow_run.flow_name,
        flow_run_id=flow_run_id,
        flow_run_name=runtime.flow_run.name,
        deployment=_deployment_name(),
        prefect_version=prefect.__version__,
        package_version=package_version(),
        git_commit=git_commit(),
    )


def _deployment_name() -> str | None:
    """A flow run's deployment. Prefect asks its server each time, and blocks the event loop meanwhile."""
    run = context.flow_run if (context := FlowRunContext.get()) else None
    if run and not run.deployment_id and not run.parent_task_run_id:  # a nested run's may be its parent's
        return None
    name: str | None = runtime.deployment.name
    return name
