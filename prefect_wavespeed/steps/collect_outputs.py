"""The third step: a completed prediction's outputs are stored, and its job is closed."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.errors import NotFoundError, OutputError
from prefect_wavespeed.job import Job, NsfwPolicy, Output, Restyled, RunInfo
from prefect_wavespeed.ledger.ledger import metadata_path, now
from prefect_wavespeed.ledger.records import Attempt, Cost, Metadata, OpenJob, PredictionInfo, Times
from prefect_wavespeed.steps.attempts import Mine, Shared, Submitted, source_facts
from prefect_wavespeed.steps.outputs import Collector, OnThumbnail
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import without_signature


@dataclass(frozen=True)
class Known:
    """What the ledger holds of a job that is about to be done."""

    open_job: OpenJob
    request: ReduxRequest
    usd: float | None
    attempts: list[Attempt]

    @classmethod
    def of(cls, mine: Mine) -> Known:
        """Of an attempt that this process made: nothing is read."""
        attempt = Attempt(
            claimed_at=mine.claimed,
            flow_run_id=mine.claim.flow_run_id,
            prediction_id=mine.record.prediction_id,
        )
        return cls(mine.open_job, mine.claim.request, mine.record.quoted_usd, [attempt])


class Downloader:
    """Downloads.

    Args:
        shared: what it works with.
        on_thumbnail: given a small JPEG of each output that is stored.
    """

    def __init__(self, shared: Shared, on_thumbnail: OnThumbnail | None) -> None:
        self._shared = shared
        self._on_thumbnail = on_thumbnail

    async def download(self, job: Job, submitted: Submitted, run: RunInfo, nsfw: NsfwPolicy) -> Restyled:
        """``StepSet.download``."""
        ledger, store, memory = self._shared.ledger, self._shared.store, self._shared.memory
        mine = memory.mine(job, submitted)
        # Who submitted a job itself is hardly ever too late, and would notice when it writes the side-car.
        if not mine and (there := await ledger.done(job)):
            await self._shared.sweep(job)  # a runner that slept through it all may have recorded it since
            return restyled_from(store, job, there, cached=False)
        try:
            prediction = memory.take_completed(submitted.prediction_id) or await self._shared.client.result(
                submitted.prediction_id
            )
            completed_at = now()
            collector = Collector(self._shared.client, store, job, prediction, run, nsfw, self._on_thumbnail)
            outputs = await collector.collect()
        except NotFoundError:  # polling tells whether it is lost for good
            raise OutputError(
                f"WaveSpeed does not know prediction {submitted.prediction_id} at the moment: "
                "run the job again",
                job_key=job.key,
                prediction_id=submitted.prediction_id,
            ) from None
        known = Known.of(mine) if mine else await self._look_up(job, submitted.attempt)
        metadata = Metadata(
            job_key=job.key,
            variant=job.variant,
            source=source_facts(job),
            request=known.request,
            prediction=PredictionInfo(
                id=submitted.prediction_id,
                created_at=prediction.created_at,
                inference_ms=prediction.inference_ms,
                has_nsfw_contents=prediction.has_nsfw_contents,
            ),
            outputs=outputs,
            cost=Cost(usd=known.usd, basis=None if known.usd is None else "quoted"),
            attempts=known.attempts,
            run=run,
            times=Times(
                claimed=known.open_job.claimed.get(submitted.attempt),
                submitted=known.open_job.recorded.get(submitted.attempt),
                completed=completed_at,
                stored=now(),
            ),
        )
        there = await ledger.finish(job, metadata, collector.object_metadata)
        if there is metadata:
            await ledger.close(job.key, known.open_job, submitted.attempt, done=True)
        else:
            await self._shared.sweep(job)
        return restyled_from(store, job, there, cached=False)

    async def _look_up(self, job: Job, attempt: int) -> Known:
        ledger = self._shared.ledger
        open_job = await ledger.open(job.key)
        claim, record = await ledger.claimed(job.key, attempt), await ledger.recorded(job.key, attempt)
        return Known(
            open_job,
            claim.request if claim else job.request(without_signature(job.source.location)),
            record.quoted_usd if record else None,
            await self._shared.attempts(job, open_job, attempt),
        )


def restyled_from(store: Store, job: Job, metadata: Metadata, *, cached: bool) -> Restyled:
    """What a job's side-car says, as a run tells it."""
    return Restyled(
        job_key=job.key,
        prediction_id=metadata.prediction.id,
        cached=cached,
        cost_usd=0.0 if cached else metadata.cost.usd,
        seed=metadata.request.seed,
        outputs=[
            Output(
                uri=store.uri_of(facts.key) if facts.key else None,
                **facts.model_dump(exclude={"key"}),
            )
            for facts in metadata.outputs
        ],
        metadata_uri=store.uri_of(metadata_path(job)),
    )
