"""Everything about a job, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.deployments.cli.views.jobs import as_dict
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.ledger.records import Attempt
from prefect_wavespeed.storage.backend import Entry
from prefect_wavespeed.storage.store import Store


def tell_story(
    store: Store, job: JobView, stored: list[Entry], prediction: Prediction | None
) -> dict[str, Any]:
    """Gather all that is known about a job.

    Args:
        store: the output.
        job: the job.
        stored: its objects below images/ and quarantine/.
        prediction: its newest prediction, as WaveSpeedAI reports it now; None where that is unknown.
    """
    closed, metadata, claim = job.metadata or job.letter, job.metadata, job.claim
    request = closed.request if closed else claim.request if claim else None
    return {
        **as_dict(job),
        "where": store.uri_of(job.path),
        "variant": closed.variant if closed else claim.job.variant if claim else None,
        "request": request.model_dump(mode="json") if request else None,
        "attempts": [attempt.model_dump(mode="json") for attempt in _attempts(job)],
        "prediction": _prediction(job, prediction),
        "candidates": job.candidates if job.is_doubtful else [],
        "cost": metadata.cost.model_dump(mode="json") if metadata else None,
        "times": metadata.times.model_dump(mode="json") if metadata else {},
        "run": metadata.run.model_dump(mode="json") if metadata else _run(job),
        "files": list(_files(store, job, stored)),
        "warnings": [one.model_dump(mode="json") for one in metadata.warnings] if metadata else [],
        "answer": closed.answer if closed else None,
    }


def _attempts(job: JobView) -> list[Attempt]:
    """The attempts in the side-car or the dead letter, and the open ones."""
    closed = job.metadata or job.letter
    attempts = list(closed.attempts) if closed else []
    for number, claimed_at in sorted(job.open_job.claimed.items()):
        claim, record = job.claims.get(number), job.records.get(number)
        attempts.append(
            Attempt(
                claimed_at=claimed_at,
                flow_run_id=claim.flow_run_id if claim else None,
                flow_run_name=claim.flow_run_name if claim else None,
                prediction_id=record.prediction_id if record else None,
                error=job.errors.get(number),
            )
        )
    return attempts


def _prediction(job: JobView, current: Prediction | None) -> dict[str, Any] | None:
    if job.metadata:
        stored = job.metadata.prediction
        return {"id": stored.id, "status": "completed", "inference_ms": stored.inference_ms}
    if job.letter and job.status == "failed":
        failure = job.letter.error
        if not failure.prediction_id:
            return None
        return {"id": failure.prediction_id, "status": failure.status, "code": failure.code}
    record = job.records.get(job.open_job.latest)
    if record is None:
        return None
    return {"id": record.prediction_id, "status": current.status if current else None}


def _run(job: JobView) -> dict[str, Any] | None:
    """The run that gave the job up, or that holds it."""
    run_id = job.letter.flow_run_id if job.letter else job.claim.flow_run_id if job.claim else None
    return {"flow_run_id": run_id} if run_id else None


def _files(store: Store, job: JobView, stored: list[Entry]) -> Iterator[dict[str, Any]]:
    """The files that exist, and those that should: these have no size."""
    sizes = {entry.path: entry.size for entry in stored}
    outputs = {output.key: output for output in (job.metadata.outputs if job.metadata else []) if output.key}
    for path in dict.fromkeys([*outputs, *sizes]):
        output = outputs.get(path)
        yield {
            "uri": store.uri_of(path),
            "bytes": sizes.get(path),
            "width": output.width if output else None,
            "height": output.height if output else None,
            "nsfw": output.nsfw if output else None,
        }
