"""The events that a job emits, once each: ``wavespeed.job.submitted``, ``.stored`` and ``.failed``.

An event's id is derived from the job, where its outputs go and the kind, so however often a job is run
again, Prefect keeps one and triggers once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from uuid import UUID, uuid5

from prefect.events import emit_event

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.job import Job, Restyled
from prefect_wavespeed.steps.step_set import Submitted
from prefect_wavespeed.tasks._assets import asset_events

_NAMESPACE = UUID("27fc87b8-4233-4c9c-bb02-7d355f42b93e")


def submitted_event(job: Job, output: str, submitted: Submitted) -> None:
    """Tell that the job was submitted."""
    _emit(
        "submitted",
        job,
        output,
        {
            "prediction_id": submitted.prediction_id,
            "attempt": submitted.attempt,
            "model": MODEL,
            "source": job.source.uri,
            "seed": job.seed,
        },
    )


def stored_event(job: Job, output: str, restyled: Restyled) -> None:
    """Tell that the job's outputs and its side-car are stored, and what they were made of."""
    asset_events(job, output, restyled)
    _emit(
        "stored",
        job,
        output,
        {
            "prediction_id": restyled.prediction_id,
            "cost_usd": restyled.cost_usd,
            "seed": restyled.seed,
            "outputs": [output.uri for output in restyled.outputs],
            "metadata_uri": restyled.metadata_uri,
        },
    )


@contextmanager
def failed_event(job: Job, output: str) -> Iterator[None]:
    """Tell it when the job fails for good inside."""
    try:
        yield
    except PredictionFailedError as error:
        _emit(
            "failed",
            job,
            output,
            {
                "prediction_id": error.prediction_id,
                "status": error.status,
                "code": error.code,
                "message": error.message,
            },
            about=error.prediction_id or "",
        )
        raise


def _emit(
    kind: Literal["submitted", "stored", "failed"],
    job: Job,
    output: str,
    payload: dict[str, Any],
    about: str = "",
) -> None:
    name = f"wavespeed.job.{kind}"
    emit_event(
        event=name,
        id=uuid5(
            _NAMESPACE, f"{name}:{output}:{job.key}{about}"
        ),  # about: a job may fail again when told to go again
        resource={
            "prefect.resource.id": f"wavespeed.job.{job.key}",
            "prefect.resource.name": job.label,
        },
        payload={"job_key": job.key, **payload},
    )
