"""After a run was cancelled or has crashed: where its job is now, in the run's log and in an artifact."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from prefect import Flow, State
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.created_object import ObjectCreated, find
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.errors import RestyleError, redact
from prefect_wavespeed.flows._artifacts import publish_job_status
from prefect_wavespeed.flows._said import PrintableLog
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.steps.run_job import make_job
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import markdown

_TIMEOUT_SECONDS = 20.0
_RUN_AGAIN = (
    "Run it again with the same parameters: the job continues where it is, and nothing is billed twice."
)


async def report_interrupted_job(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Report the status of the job of a cancelled or crashed run: a hook of the flow.

    It reads the ledger only. So it needs no API key, and may run in another process: a worker calls the
    cancellation hook after it has killed the flow's process. Errors are logged, never raised.
    """
    logger = PrintableLog(flow_run_logger(flow_run, flow), {})
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            arguments = _arguments(flow, flow_run.parameters)
            store = await open_output(await _output(arguments["output"]))
            job = await _job(arguments, store)
            ending = (state.name or "interrupted").lower()
            status = await _status(job, store)
            logger.warning("%s: %s", ending, status)
            await publish_job_status(job, f"# {job.label}: {ending}\n\n{markdown(status)}\n", flow_run.id)
    except Exception as error:
        logger.warning(
            "interrupted, and the status of its job cannot be read: %s. %s", redact(error), _RUN_AGAIN
        )


async def _output(parameter: Any) -> Block | str:
    """The output that the run was given; of a block that was chosen in a form, Prefect keeps a reference."""
    if not isinstance(parameter, dict):
        return str(parameter)
    if not (reference := parameter.get("$ref")):
        raise RestyleError("its output was a block, and that is not kept")
    block: Block = await Block.aload_from_ref(reference)
    return block


async def _job(arguments: dict[str, Any], store: Store) -> Job:
    params = ReduxParams.model_validate(arguments["params"])
    if "created" not in arguments:
        return await make_job(arguments["image"], params, arguments["variant"], store)
    created = ObjectCreated.model_validate(arguments["created"])
    found = await find(created, arguments["watched"], params, arguments["metadata_params"], store)
    if found.job is None:
        raise RestyleError(f"{found.ignored}: nothing is billed")
    return found.job


async def _status(job: Job, store: Store) -> str:
    ledger = Ledger(store)
    if done := await ledger.side_car(job):
        return f"Done: prediction {done.prediction.id} is stored, and nothing is open. Job {job.key}."
    if letter := await ledger.dead_letter(job.key):
        reason = redact(letter.error.message)
        return f"Failed for good: {reason}. To submit it again, use retry_failed. Job {job.key}."
    attempt = (await ledger.open_job(job.key)).latest
    if not attempt:
        return f"Nothing was submitted and nothing is billed. {_RUN_AGAIN} Job {job.key}."
    where = f"Job {job.key}, open in the ledger at {store.uri_of(layout.open_job(job.key))}."
    if record := await ledger.read_record(job.key, attempt):
        return (
            f"Attempt {attempt} is submitted and running at WaveSpeedAI: prediction {record.prediction_id}. "
            f"{_RUN_AGAIN} {where}"
        )
    return (
        f"Attempt {attempt} is claimed, and no prediction is recorded: it may have been submitted. The next "
        f"run looks for it in the account's history before it submits anything. {_RUN_AGAIN} {where}"
    )


def _arguments(flow: Flow[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The run's parameters, and the defaults of those that it leaves out."""
    defaults = {name: each.default for name, each in inspect.signature(flow.fn).parameters.items()}
    return defaults | parameters
