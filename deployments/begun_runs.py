"""Runs that backfills have begun: found by their idempotency keys, and what they have spent or may spend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from math import inf

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun

from prefect_wavespeed.batch.report.rows import Summary

_KEYS_AT_ONCE = 100  # Prefect answers with 200 runs at most


async def begun_runs(
    client: PrefectClient, key: Callable[[date, int], str], days: Iterable[date]
) -> dict[date, list[FlowRun]]:
    """The runs of each day, the first attempt first.

    Args:
        client: of the server.
        key: the idempotency key of a day's attempt, from 1.
        days: which.
    """
    begun: dict[date, list[FlowRun]] = {day: [] for day in days}
    attempt, asked = 1, list(begun)
    while asked:
        keys = {day: key(day, attempt) for day in asked}
        runs = await _runs(client, list(keys.values()))
        asked = [day for day in asked if keys[day] in runs]
        for day in asked:
            begun[day].append(runs[keys[day]])
        attempt += 1
    return begun


def is_over(run: FlowRun) -> bool:
    """Whether it has ended for good."""
    return run.state is not None and run.state.is_final()


def spent_by_run(summaries: Iterable[Summary]) -> dict[str, float]:
    """USD by flow run, of those that left nothing open, which may cost more yet."""
    return {
        one.flow_run_id: one.spent_usd for one in summaries if one.flow_run_id and not one.counts.get("open")
    }


def set_aside(runs: Iterable[FlowRun], spent: Mapping[str, float]) -> float:
    """USD that runs have spent, where they are over and have said so, or else may spend: their caps.

    It is infinite if one that is not over has no cap.
    """
    usd = 0.0
    for run in runs:
        cap = (run.parameters.get("options") or {}).get("max_cost_usd")
        may_spend = float(cap) if cap else (0.0 if is_over(run) else inf)
        usd += spent.get(str(run.id), may_spend) if is_over(run) else may_spend
    return usd


async def _runs(client: PrefectClient, keys: Sequence[str]) -> dict[str, FlowRun]:
    found: dict[str, FlowRun] = {}
    for first in range(0, len(keys), _KEYS_AT_ONCE):
        some = FlowRunFilterIdempotencyKey(any_=list(keys[first : first + _KEYS_AT_ONCE]))
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=some))
        found |= {run.idempotency_key: run for run in runs if run.idempotency_key}
    return found
