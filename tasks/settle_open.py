"""The task that brings the open jobs of an output forward: all of them in one task run."""

from __future__ import annotations

from contextlib import suppress

from prefect import task

from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.steps.settle import Settled, SettleOutcome, settle
from prefect_wavespeed.tasks._events import failed_event, stored_event
from prefect_wavespeed.tasks._runtime import TASK_OPTIONS, opened, run_info


@task(task_run_name="settle {output}", **TASK_OPTIONS)
async def settle_open(wavespeed: str = WAVESPEED_BLOCK, output: str = DEFAULT_OUTPUT) -> Settled:
    """Bring every open job of an output forward; nothing is ever submitted, so nothing is billed.

    Args:
        wavespeed: name of the `WaveSpeed` block.
        output: where the outputs go, and the ledger is.

    Returns:
        What was done, in numbers, and the jobs that need a look.
    """
    async with opened(wavespeed, output) as runtime:

        def tell(outcome: SettleOutcome) -> None:
            _emit(outcome, runtime.store.uri)

        return await settle(runtime.client, runtime.store, run_info(), on_progress=tell)


def _emit(outcome: SettleOutcome, output: str) -> None:
    """The event of a job that has ended. One that had ended already is told again, under the same id."""
    if outcome.job and outcome.restyled:
        stored_event(outcome.job, output, outcome.restyled)
    if outcome.job and outcome.error:
        with suppress(PredictionFailedError), failed_event(outcome.job, output):
            raise outcome.error
