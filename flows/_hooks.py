"""What an interrupted run leaves behind: the truth about its job, where people look for it."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.created_object import ObjectCreated, find
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.errors import RestyleError, redact
from prefect_wavespeed.flows._artifacts import show_standing
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.steps.step_set import make_job
from prefect_wavespeed.storage.store import Store

_MOST_SECONDS = 20.0
_AGAIN = "Run it again with the same parameters: it is taken up where it is, and nothing is billed twice."


async def leave_the_truth(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Say in the log and in an artifact where the job of a cancelled or crashed run stands.

    It asks the ledger only, so it needs no API key and serves in another process as well: a worker runs
    the cancellation hook after it has killed the flow's. Nothing that goes wrong here leaves it.
    """
    logger = flow_run_logger(flow_run, flow)
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            given = _arguments(flow, flow_run.parameters)
            store = await open_output(given["output"])
            job = await _job(given, store)
            how = (state.name or "interrupted").lower()
            standing = await _standing(job, store)
            logger.warning("%s: %s", how, standing)
            await show_standing(job, f"# {job.label}: {how}\n\n{standing}\n", flow_run.id)
    except Exception as error:
        logger.warning(
            "interrupted, and where the job stands could not be found out (%s). %s", redact(error), _AGAIN
        )


async def _job(given: dict[str, Any], store: Store) -> Job:
    params = ReduxParams.model_validate(given["params"])
    if "created" not in given:
        return await make_job(given["image"], params, given["variant"], store)
    created = ObjectCreated.model_validate(given["created"])
    found = await find(created, given["watched"], params, given["metadata_params"], store)
    if found.job is None:
        raise RestyleError(f"{found.ignored}: nothing is billed")
    return found.job


async def _standing(job: Job, store: Store) -> str:
    ledger = Ledger(store)
    if done := await ledger.done(job):
        return f"Job {job.key} is done: prediction {done.prediction.id} is stored, nothing is open."
    if letter := await ledger.dead(job.key):
        why = redact(letter.error.message)
        return f"Job {job.key} has failed for good: {why}. Use retry_failed to go again."
    there = await ledger.open(job.key)
    attempt = there.latest
    if not attempt:
        return f"Job {job.key}: nothing was submitted, nothing is billed. {_AGAIN}"
    where = f"The job is open in the ledger at {store.uri_of(f'open/{job.key}/')}."
    if record := await ledger.recorded(job.key, attempt):
        return (
            f"Job {job.key}, attempt {attempt}: prediction {record.prediction_id} was submitted "
            f"and goes on at WaveSpeedAI. {where} {_AGAIN}"
        )
    return (
        f"Job {job.key}, attempt {attempt}: claimed, no prediction recorded: it may have been submitted. "
        f"{where} The next run looks for it in the account's history before it submits anything. {_AGAIN}"
    )


def _arguments(flow: Flow[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """The run's parameters, those left to their defaults included."""
    parameters = inspect.signature(flow.fn).parameters
    return {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
