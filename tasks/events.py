"""The events of a job, once each: ``wavespeed.job.submitted``, ``.stored`` and ``.failed``; and of a batch.

The id of an event is derived from the job, its output and the kind. However often a job is run again,
Prefect keeps one event and triggers once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import UUID, uuid5

from prefect.events import emit_event

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.batch.outcome import NOT_STORED
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.job import Job, Restyled
from prefect_wavespeed.steps.attempts import Submitted
from prefect_wavespeed.tasks.assets import emit_lineage
from prefect_wavespeed.words import counted

_NAMESPACE = UUID("27fc87b8-4233-4c9c-bb02-7d355f42b93e")


def emit_submitted(job: Job, output: str, submitted: Submitted) -> None:
    """Emit that the job was submitted. ``output`` is the store's URI, here and below."""
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
    emit_lineage(job, output, restyled)
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


def _emit(
    kind: Literal["submitted", "stored", "failed"],
    job: Job,
    output: str,
    payload: dict[str, Any],
    distinct: str = "",
) -> None:
    event = f"wavespeed.job.{kind}"
    emit_event(
        event=event,
        id=uuid5(_NAMESPACE, f"{event}:{output}:{job.key}{distinct}"),
        resource={
            "prefect.resource.id": f"wavespeed.job.{job.key}",
            "prefect.resource.name": job.label,
        },
        payload={"job_key": job.key, **payload},
    )
