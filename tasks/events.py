"""The events of a job, once each: ``wavespeed.job.submitted``, ``.stored`` and ``.failed``; and of a batch.

The id of an event is derived from the job, its output and the kind. However often a job is run again,
Prefect keeps one event and triggers once. The jobs of a large batch share events (`sharing_events`): each
event costs this process and Prefect's server a millisecond or more, and its server keeps few a second.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal
from uuid import UUID, uuid5

from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging import get_logger

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.batch.outcome import NOT_STORED
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.job import Job, Restyled, RunInfo
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.tasks.assets import emit_lineage
from prefect_wavespeed.words import counted

Kind = Literal["submitted", "stored", "failed"]

_NAMESPACE = UUID("27fc87b8-4233-4c9c-bb02-7d355f42b93e")
_SHARED_BY = 100  # jobs at most: one event may have 1.5 MB, and a job with four long URIs has some 5 KB
_EVERY = 5.0  # seconds between two events of a kind
_OWN_FAILURES = 50  # jobs of a batch that fail for good and have an event of their own; the rest share them
_MOST_WAITING = 200  # events in Prefect's queue, which has no bound of its own, while its server is away


def emit_submitted(job: Job, output: str, submitted: Submitted) -> None:
    """Emit that the job was submitted. ``output`` is the store's URI, here and below."""
    if _shared.get() and not submitted.fresh:
        return  # the run that submitted it has told it
    payload = {
        "prediction_id": submitted.prediction_id,
        "attempt": submitted.attempt,
        "model": MODEL,
        "source": job.source.uri,
        "seed": job.seed,
    }
    _emit("submitted", job, output, payload)


def emit_stored(job: Job, output: str, restyled: Restyled) -> None:
    """Emit that the job's outputs and its side-car are stored, and which asset was made of which."""
    if not _shared.get():
        emit_lineage(job, output, restyled)
    elif restyled.cached:
        return  # the run that stored it has told it
    payload = {
        "prediction_id": restyled.prediction_id,
        "cost_usd": restyled.cost_usd,
        "seed": restyled.seed,
        "outputs": [output.uri for output in restyled.outputs],
        "warnings": [warning.code for warning in restyled.warnings],
        "metadata_uri": restyled.metadata_uri,
    }
    _emit("stored", job, output, payload)


def emit_failed(job: Job, output: str, error: PredictionFailedError) -> None:
    """Emit that the job failed for good; with `retry_failed` that may happen again, as another event."""
    payload = {
        "prediction_id": error.prediction_id,
        "status": error.status,
        "code": error.code,
        "message": error.message,
    }
    _emit("failed", job, output, payload, distinct=error.prediction_id or "")


def emit_rows_failed(summary: Summary) -> None:
    """Emit, once a run, that rows of a batch have no pictures. What only earlier runs gave up is no news."""
    failed = {status: summary.counts.get(status, 0) for status in NOT_STORED if status != "given_up"}
    if not any(failed.values()):
        return
    event, message = "wavespeed.rows.failed", f"{summary.outcome}, of {counted(summary.row_count, 'row')}"
    reasons = [reason.model_dump() for reason in summary.reasons]
    emit_event(
        event=event,
        # the same again if a retry of the run ends in the same way
        id=uuid5(_NAMESPACE, f"{event}:{summary.flow_run_id}:{message}"),
        resource={
            "prefect.resource.id": f"wavespeed.run.{summary.flow_run_id}",
            "prefect.resource.name": summary.flow_run_name or "restyle batch",
        },
        payload={
            "message": message,
            "counts": dict(summary.counts),
            "reasons": reasons,
            "details": "\n".join(summary.failure_lines),
            "output": summary.output,
            "report": summary.report,
        },
    )


@contextmanager
def emitting_failure(job: Job, output: str) -> Iterator[None]:
    """Emit it if the job fails for good inside."""
    try:
        yield
    except PredictionFailedError as error:
        emit_failed(job, output, error)
        raise


def _emit(kind: Kind, job: Job, output: str, payload: dict[str, Any], distinct: str = "") -> None:
    payload = {"job_key": job.key, **payload}
    if (shared := _shared.get()) and shared.add(kind, payload):
        return
    event = f"wavespeed.job.{kind}"
    emit_event(
        event=event,
        id=uuid5(_NAMESPACE, f"{event}:{output}:{job.key}{distinct}"),
        resource={
            "prefect.resource.id": f"wavespeed.job.{job.key}",
            "prefect.resource.name": job.label,
        },
        payload=payload,
    )


class _SharedEvents:
    """What the jobs of one run have come to, until it is emitted.

    Args:
        output: URI of the store.
        run: whose jobs they are.
    """

    def __init__(self, output: str, run: RunInfo) -> None:
        self._output = output
        self._run = run
        self._waiting: defaultdict[Kind, list[dict[str, Any]]] = defaultdict(list)
        self._own_failures = 0
        self.dropped = 0
        self.last_error: str | None = None

    def add(self, kind: Kind, payload: dict[str, Any]) -> bool:
        """Take what is to be emitted of a job; False if it shall have an event of its own."""
        if kind == "failed" and self._own_failures < _OWN_FAILURES:
            self._own_failures += 1
            return False
        self._waiting[kind].append(payload)
        if len(self._waiting[kind]) == _SHARED_BY:
            self._emit(kind)
        return True

    async def emit_again_and_again(self) -> None:
        """Emit every few seconds what there is."""
        while True:
            await asyncio.sleep(_EVERY)
            self.emit_all()

    def emit_all(self) -> None:
        """Emit what there is."""
        for kind in self._waiting:
            self._emit(kind)

    def _emit(self, kind: Kind) -> None:
        jobs, self._waiting[kind] = self._waiting[kind], []
        if not jobs:
            return
        event = f"wavespeed.jobs.{kind}"
        keys = ",".join(job["job_key"] for job in jobs)
        try:
            if _waiting_events() >= _MOST_WAITING:
                self.dropped += 1
                return
            emit_event(
                event=event,
                id=uuid5(_NAMESPACE, f"{event}:{self._output}:{self._run.flow_run_id}:{keys}"),
                resource={
                    "prefect.resource.id": f"wavespeed.run.{self._run.flow_run_id}",
                    "prefect.resource.name": self._run.flow_run_name or "restyle batch",
                },
                payload={"output": self._output, "count": len(jobs), "jobs": jobs},
            )
        except Exception as error:  # too large, or Prefect's client cannot start: no reason to fail a job
            self.dropped += 1
            self.last_error = type(error).__name__


def _waiting_events() -> int:
    """How many events Prefect has not sent yet: it has no public count. 0 for a Prefect without this one."""
    try:
        return int(EventsWorker.instance()._queue.qsize())
    except AttributeError:
        return 0


_shared: ContextVar[_SharedEvents | None] = ContextVar("shared_events", default=None)


@asynccontextmanager
async def sharing_events(output: str, run: RunInfo) -> AsyncIterator[None]:
    """Let the jobs that are carried out inside share events, of which each tells of up to a hundred.

    Of a job that another run has submitted or stored nothing is told: that run has.

    Args:
        output: URI of the store.
        run: whose jobs they are.
    """
    shared = _SharedEvents(output, run)
    token = _shared.set(shared)
    emitting = asyncio.create_task(shared.emit_again_and_again())
    try:
        yield
    finally:
        _shared.reset(token)
        emitting.cancel()
        await asyncio.gather(emitting, return_exceptions=True)
        shared.emit_all()
        if shared.dropped:
            get_logger("restyle").warning(
                "%s dropped, as %s: the report and the output are complete",
                counted(shared.dropped, "event"),
                f"Prefect did not take them ({shared.last_error} at last)"
                if shared.last_error
                else "Prefect's server was away or slow",
            )
