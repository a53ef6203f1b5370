"""Objects of a store's layout with plausible content, for tests of what only reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.batch.report.rows import ReportRow, decode_rows
from prefect_wavespeed.job import OutputWarning, RunInfo, slug
from prefect_wavespeed.ledger.records import (
    Attempt,
    Cost,
    DeadLetter,
    Failure,
    Metadata,
    OutputInfo,
    PredictionInfo,
    Record,
    SourceInfo,
    Times,
)
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store

STORED = datetime(2026, 3, 1, 12, tzinfo=UTC)

SOURCE = "file:///photos/coffee.jpg"

_REQUEST = ReduxRequest(image="https://example.com/coffee.jpg", seed=7)


def key_of(prediction_id: str) -> str:
    """A job key that belongs to a prediction of a test."""
    return hashlib.sha256(prediction_id.encode()).hexdigest()


def side_car(
    prediction_id: str,
    usd: float | None = 0.025,
    *,
    stored: datetime = STORED,
    pictures: int = 1,
    run_id: str | None = "a-run",
    earlier: tuple[str, ...] = (),
    asked: int | None = None,
    nsfw: bool | None = False,
    warnings: Sequence[OutputWarning] = (),
    source: str = SOURCE,
) -> Metadata:
    """The side-car of a job.

    Args:
        prediction_id: of its prediction.
        usd: its recorded price.
        stored: when it was stored.
        pictures: number of outputs.
        run_id: of the flow run that stored it.
        earlier: predictions of earlier attempts.
        asked: number of outputs that were asked for; by default as many as there are.
        nsfw: whether its outputs are flagged.
        warnings: what is wrong with them.
        source: URI of its source.
    """
    key = key_of(prediction_id)
    attempts = [
        *(Attempt(claimed_at=stored, prediction_id=one, error="the prediction failed") for one in earlier),
        Attempt(claimed_at=stored, prediction_id=prediction_id, flow_run_id=run_id),
    ]
    outputs = [
        OutputInfo(
            key=layout.picture(f"coffee-{key[:16]}", number, "jpeg"),
            sha256=key,
            bytes=12_345,
            content_type="image/jpeg",
            width=1024,
            height=1024,
            nsfw=nsfw,
        )
        for number in range(1, pictures + 1)
    ]
    return Metadata(
        job_key=key,
        model=MODEL,
        variant=0,
        source=_source(source),
        request=_REQUEST.model_copy(update={"num_images": asked or pictures}),
        prediction=PredictionInfo(id=prediction_id, created_at=stored, inference_ms=2100),
        outputs=outputs,
        warnings=list(warnings),
        cost=Cost(usd=usd, basis=None if usd is None else "quoted"),
        attempts=attempts,
        run=RunInfo(flow="restyle-image", flow_run_id=run_id, package_version="test"),
        times=Times(claimed=stored, submitted=stored, completed=stored, stored=stored),
        answer={"id": prediction_id, "status": "completed"},
    )


def dead_letter(prediction_id: str, *, message: str = "the prediction failed", **failure: Any) -> DeadLetter:
    """The dead letter of a job that failed with this prediction."""
    return DeadLetter(
        job_key=key_of(prediction_id),
        last_attempt=1,
        error=Failure(type="PredictionFailed", message=message, prediction_id=prediction_id, **failure),
        flow_run_id="a-run",
        source=_source(SOURCE),
        request=_REQUEST,
        variant=0,
        attempts=[Attempt(claimed_at=STORED, prediction_id=prediction_id, flow_run_id="a-run")],
        failed_at=STORED,
    )


def record(prediction_id: str) -> Record:
    """The record of an open job's prediction."""
    return Record(
        prediction_id=prediction_id, submitted_at=STORED, quoted_usd=0.025, base_url="https://example.com"
    )


async def put(store: Store, *objects: Metadata | DeadLetter | Record, attempt: int = 1) -> None:
    """Write objects to where the layout has them, records for an attempt."""
    for one in objects:
        match one:
            case Metadata():
                path = layout.metadata(folder_of(one))
            case DeadLetter():
                path = layout.dead_letter(one.job_key)
            case Record():
                path = layout.prediction(key_of(one.prediction_id), attempt)
        await store.put(path, _json(one), "application/json")


def folder_of(metadata: Metadata) -> str:
    """The name of a done job's folder."""
    return f"{slug(metadata.source.uri.rpartition('/')[2])}-{metadata.job_key[:16]}"


def _source(uri: str) -> SourceInfo:
    return SourceInfo(uri=uri, identity=f"identity of {uri}")


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def report_rows(data: bytes) -> list[ReportRow]:
    """The rows of a ``report.jsonl``, or of a part of one."""
    return list(decode_rows(data.splitlines(), "report.jsonl"))
