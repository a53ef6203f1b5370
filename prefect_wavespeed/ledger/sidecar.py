"""The side-car of a finished job: how it is made, and what a run returns of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.job import Job, Output, OutputWarning, Restyled, RunInfo
from prefect_wavespeed.ledger.records import (
    Attempt,
    Cost,
    Metadata,
    OpenJob,
    OutputInfo,
    PredictionInfo,
    SourceInfo,
    Times,
)
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store


@dataclass(frozen=True)
class JobHistory:
    """How a job came to its prediction.

    Attributes:
        open_job: its attempts, with their times by the store's clock.
        request: what was sent; the URL without its signature.
        usd: the price that was quoted, in USD; None when it is not known.
        attempts: each attempt, as the side-car lists it.
    """

    open_job: OpenJob
    request: ReduxRequest
    usd: float | None
    attempts: list[Attempt]


def make_side_car(
    job: Job,
    attempt: int,
    prediction: Prediction,
    outputs: list[OutputInfo],
    warnings: list[OutputWarning],
    history: JobHistory,
    run: RunInfo,
    *,
    completed: datetime,
    stored: datetime,
) -> Metadata:
    """The side-car of a job whose outputs are stored.

    Args:
        job: what was asked for.
        attempt: the attempt that succeeded.
        prediction: its prediction.
        outputs: what is stored of it.
        warnings: what is wrong with that.
        history: how the job came to it.
        run: the run that stored it.
        completed, stored: when the prediction was seen to be ready, and when its outputs were stored, by the
            store's clock.
    """
    return Metadata(
        job_key=job.key,
        variant=job.variant,
        source=source_info(job),
        request=history.request,
        prediction=PredictionInfo(
            id=prediction.id,
            model=prediction.model or None,
            created_at=prediction.created_at,
            inference_ms=prediction.inference_ms,
            has_nsfw_contents=[prediction.flag(index) for index in range(len(prediction.outputs))],
        ),
        outputs=outputs,
        warnings=warnings,
        cost=Cost(usd=history.usd, basis=None if history.usd is None else "quoted"),
        attempts=history.attempts,
        run=run,
        times=_in_order(
            history.open_job.claimed.get(attempt), history.open_job.recorded.get(attempt), completed, stored
        ),
        answer=prediction.answer,
    )


def _in_order(
    claimed: datetime | None, submitted: datetime | None, completed: datetime, stored: datetime
) -> Times:
    """The times as they followed one another.

    The store's clock is read off its objects, in whole seconds on some stores, and carried on by
    this machine's in between: what came later may read a moment earlier.
    """
    if claimed and submitted:
        submitted = max(claimed, submitted)
    if earlier := submitted or claimed:
        completed = max(earlier, completed)
    return Times(claimed=claimed, submitted=submitted, completed=completed, stored=max(completed, stored))


def restyled_from(store: Store, job: Job, side_car: Metadata, *, cached: bool) -> Restyled:
    """What a run returns of a finished job.

    Args:
        store: where it is.
        job: which one.
        side_car: its side-car.
        cached: it was done before this run looked, so it costs this run nothing.
    """
    return Restyled(
        job_key=job.key,
        prediction_id=side_car.prediction.id,
        cached=cached,
        cost_usd=0.0 if cached else side_car.cost.usd,
        seed=side_car.request.seed,
        outputs=[
            Output(uri=store.uri_of(output.key) if output.key else None, **output.model_dump(exclude={"key"}))
            for output in side_car.outputs
        ],
        warnings=side_car.warnings,
        metadata_uri=store.uri_of(layout.metadata(job.name)),
    )


def source_info(job: Job) -> SourceInfo:
    """The source, as side-cars and dead letters have it."""
    return SourceInfo(uri=job.source.uri, identity=job.source.identity, sha256=job.source.sha256)
