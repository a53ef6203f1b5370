"""The task that settles the open jobs of an output, all in one task run."""

from __future__ import annotations

from functools import partial

from prefect import task
from prefect.runtime import task_run

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam, shown
from prefect_wavespeed.settling.settle import settle
from prefect_wavespeed.settling.summary import Settled, SettleOutcome
from prefect_wavespeed.tasks._options import TASK_OPTIONS
from prefect_wavespeed.tasks.context import run_info
from prefect_wavespeed.tasks.events import emit_failed, emit_stored
from prefect_wavespeed.tasks.runtime import open_runtime


def _run_name() -> str:
    return f"settle {shown(task_run.parameters['output'])}"


@task(task_run_name=_run_name, **TASK_OPTIONS)
async def settle_open(
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK, output: OutputParam = DEFAULT_OUTPUT
) -> Settled:
    """Settle every open job of an output. Nothing is submitted, so nothing is billed.

    Args:
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: where the outputs go, and the ledger is.

    Returns:
        Counts by outcome, and the jobs that need attention.
    """
    async with open_runtime(wavespeed, output) as runtime:
        emit = partial(_emit, output=runtime.store.uri)
        return await settle(runtime.client, runtime.store, run_info(), on_progress=emit)


def _emit(outcome: SettleOutcome, output: str) -> None:
    """Emit that a job has ended; the events of one that had ended before have the same ids."""
    if outcome.job and outcome.restyled:
        emit_stored(outcome.job, output, outcome.restyled)
    if outcome.job and outcome.error:
        emit_failed(outcome.job, output, outcome.error)
