"""What the steps share: the API, the store, the ledger, and how a job is given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect_wavespeed import metrics
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import PredictionFailedError, RestyleError, UnsureSubmissionError
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.history import MARGIN, History, LostSubmission, unsure
from prefect_wavespeed.ledger.known_predictions import KnownPredictions
from prefect_wavespeed.ledger.ledger import Ledger, Look, now
from prefect_wavespeed.ledger.records import Attempt, Claim, DeadLetter, Failure, OpenJob, Record
from prefect_wavespeed.ledger.rules import JobState, LetterState
from prefect_wavespeed.ledger.sidecar import restyled_from, source_info
from prefect_wavespeed.settings import Settings
from prefect_wavespeed.sources.publish import Publisher
from prefect_wavespeed.steps.attempts import Submitted, describe_end
from prefect_wavespeed.steps.memory import Memory
from prefect_wavespeed.steps.prices import PriceCache
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.urls import without_signature

OnThumbnail = Callable[[str, int, bytes], None]
"""Called with a small JPEG: the job's key; the output's number, from 1, or 0 for the source; the JPEG."""

CLOCK_GRAIN = timedelta(seconds=1)
"""S3 tells whole seconds, so an age by its clock may be this much too high."""


@dataclass
class StepContext:
    """What the steps work with."""

    client: WaveSpeedClient
    store: Store
    settings: Settings
    inbox: WebhookInbox = field(default_factory=WebhookInbox)
    on_thumbnail: OnThumbnail | None = None
    ledger: Ledger = field(init=False)
    known: KnownPredictions = field(init=False)
    history: History = field(init=False)
    publisher: Publisher = field(init=False)
    prices: PriceCache = field(init=False)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store)
        self.known = KnownPredictions(self.ledger)
        self.history = History(self.client, self.known)
        self.publisher = Publisher(self.client, self.store)
        self.prices = PriceCache(self.client)

    def lease_of(self, claim: Claim | None) -> timedelta:
        """How long a claim holds: as long as its owner relies on it, and no less than one of ours would."""
        seconds = max(self.settings.lease_seconds, claim.lease_seconds if claim else 0)
        return timedelta(seconds=seconds) + CLOCK_GRAIN

    def job_state(
        self,
        look: Look,
        lease: timedelta,
        flow_run_id: str | None,
        watched: Mapping[int, float] | None = None,
    ) -> JobState:
        """What a look found, as the rules see it.

        Args:
            look: the look.
            lease: how long the newest claim holds.
            flow_run_id: the run that asks.
            watched: seconds since each claim was first seen. A claim is at least that old, also where the
                store's clock has been set back, or dates it in the future.
        """
        letter = None
        if look.letter:
            letter = LetterState(
                look.letter.last_attempt,
                names_prediction=look.letter.error.prediction_id is not None,
                from_this_run=flow_run_id is not None and look.letter.flow_run_id == flow_run_id,
            )
        time = self.store.now()
        return JobState(
            done=look.side_car is not None,
            letter=letter,
            claims={
                n: max((time - at).total_seconds(), (watched or {}).get(n, 0.0))
                for n, at in look.open_job.claimed.items()
            },
            records=look.open_job.recorded.keys(),
            lease=lease.total_seconds(),
            ruled_out=max(look.open_job.ruled_out, default=0),
            doubtful=max(look.open_job.doubtful, default=0),
        )

    async def stored(self, job: Job, look: Look) -> Submitted | None:
        """What is stored of a job, if it is done. A runner that was killed at the very end left its claim."""
        side_car = look.side_car
        if side_car is None:
            return None
        await self.ledger.close(job.key, look.open_job, look.open_job.latest, done=True)
        metrics.FOUND.inc()
        restyled = restyled_from(self.store, job, side_car, cached=True)
        return Submitted(job_key=job.key, prediction_id=side_car.prediction.id, restyled=restyled)

    async def find_lost(
        self,
        open_job: OpenJob,
        claims: dict[int, Claim],
        letter: DeadLetter | None,
        *,
        attempt: int,
        seconds: float,
    ) -> Prediction | None:
        """Look for what a job's attempts may have created: among webhooks, then in the account's history.

        Args:
            open_job: its attempts.
            claims: their claims by number, which hold the requests.
            letter: an earlier dead letter; its prediction is of no use.
            attempt: the newest one that may have been submitted.
            seconds: for how long to look, again and again: a submission may show up late.

        Returns:
            The newest prediction that has not failed; None when there surely is none.

        Raises:
            UnsureSubmissionError: there are predictions that may be the job's, and nothing tells. They are
                noted beside the attempt's claim.
            RestyleError: the history cannot be read, so nothing is known.
        """
        if not claims:
            return None
        # The earliest by any clock that has a say.
        times: list[datetime] = [*open_job.claimed.values(), *(claim.claimed_at for claim in claims.values())]
        present, settled = self.store.now(), max(open_job.ruled_out, default=0)
        job = claims[max(claims)].job
        lost = LostSubmission(
            requests=[claim.request for claim in claims.values()],
            since=min([*times, present]),
            claimed=[open_job.claimed.get(n, present) for n in claims if n > settled],
            window=max(self.lease_of(claim) for claim in claims.values()),
            seed_is_unique=job.params.seed == -1,
            image_url_is_kept=self.client.traits.image_url_is_kept is True or not _is_upload(job, claims),
            slack=self._clock_difference(),
            excluded=frozenset({letter.error.prediction_id} if letter and letter.error.prediction_id else ()),
            job_key=job.key,
            noticed=partial(self.inbox.find, job.key),
        )
        try:
            return await self.history.search(lost, seconds)
        except UnsureSubmissionError as error:
            error.job_key = job.key
            await self.ledger.note_candidates(job.key, attempt, list(error.candidates))
            raise

    async def in_doubt(self, key: str, attempt: int) -> UnsureSubmissionError:
        """The error of a job in doubt of which no search can tell any more."""
        return unsure(tuple(await self.ledger.read_candidates(key, attempt)), key)

    def _clock_difference(self) -> timedelta:
        """How far the clocks of the API and of the store are apart; an hour where that is not known."""
        if self.client.clock_skew is None:
            return MARGIN
        return abs(now() + self.client.clock_skew - self.store.now())

    async def make_record(self, job: Job, prediction: Prediction) -> Record:
        """The record of a job's prediction, with the price if it is known."""
        usd = self.prices.cached(job.params)  # an id is not kept waiting
        if usd is None:
            usd = await self.prices.usd(job.request(job.source.location), required=False)
        return Record(
            prediction_id=prediction.id,
            submitted_at=prediction.created_at,
            quoted_usd=usd,
            base_url=self.client.base_url,
        )

    async def remove_leftovers(self, job: Job) -> None:
        """Remove what is still open of a job that is done."""
        open_job = await self.ledger.open_job(job.key)
        await self.ledger.close(job.key, open_job, open_job.latest, done=True)

    async def give_up(
        self, job: Job, attempt: int, failure: Failure, answer: dict[str, Any] | None = None
    ) -> PredictionFailedError:
        """Write the job's dead letter and close the job.

        Args:
            job: which one.
            attempt: its last.
            failure: why.
            answer: what the API said of its prediction.

        Returns:
            The error to raise: of this letter, or of the one that another runner wrote.
        """
        self.memory.forget_attempt(job)
        open_job = await self.ledger.open_job(job.key)
        claim = await self.ledger.read_claim(job.key, attempt)
        earlier = await self.ledger.dead_letter(job.key)
        last_error = failure.message if failure.prediction_id else None
        if earlier and failure.prediction_id is None:  # it may still turn out well, and is paid for
            failure = failure.model_copy(update={"prediction_id": earlier.error.prediction_id})
            answer = earlier.answer
        letter = DeadLetter(
            job_key=job.key,
            last_attempt=attempt,
            error=failure,
            flow_run_id=claim.flow_run_id if claim else None,
            source=source_info(job),
            request=job.request(without_signature(job.source.location)),
            variant=job.variant,
            attempts=await self.attempts(job, open_job, attempt, has_failed=True, last_error=last_error),
            failed_at=now(),
            answer=answer,
        )
        letter = await self.ledger.bury(letter)
        await self.ledger.close(job.key, open_job, letter.last_attempt, done=False)
        return letter.as_error()

    async def note_error(self, job: Job, attempt: int, message: str) -> None:
        """Keep beside an attempt's claim what went wrong with it, if it can be kept."""
        self.memory.forget_attempt(job)  # the note is to be removed with the claim
        with suppress(RestyleError):
            open_job = await self.ledger.open_job(job.key)
            if attempt in open_job.claimed or attempt in open_job.recorded:  # else the job is closed
                await self.ledger.note_error(job.key, attempt, message)

    async def attempts(
        self, job: Job, open_job: OpenJob, last: int, *, has_failed: bool, last_error: str | None = None
    ) -> list[Attempt]:
        """The attempts up to a number, and what went wrong with each, for side-car and dead letter.

        Args:
            job: which one.
            open_job: its attempts.
            last: the attempt at which the job ended.
            has_failed: that attempt failed, too.
            last_error: what went wrong with it, where that is known.
        """
        attempts = []
        for number, claimed_at in sorted(open_job.claimed.items()):
            if number > last:
                break
            is_recorded = number in open_job.recorded
            record = await self.ledger.read_record(job.key, number) if is_recorded else None
            claim = await self.ledger.read_claim(job.key, number)
            attempt = Attempt(
                claimed_at=claimed_at,
                flow_run_id=claim.flow_run_id if claim else None,
                flow_run_name=claim.flow_run_name if claim else None,
                prediction_id=record.prediction_id if record else None,
            )
            if number == last and last_error:
                attempt.error = last_error
            elif number < last or has_failed:
                attempt.error = await self.error_of(job, open_job, number)
            attempts.append(attempt)
        return attempts

    async def error_of(self, job: Job, open_job: OpenJob, attempt: int) -> str:
        """What went wrong with an attempt: as it was noted; where its runner was killed, as the API says."""
        noted = await self.ledger.read_error(job.key, attempt) if attempt in open_job.errors else None
        if noted:
            return noted
        record = await self.ledger.read_record(job.key, attempt) if attempt in open_job.recorded else None
        if record is None:
            return "no answer recorded"
        try:
            return describe_end(await self.client.result(record.prediction_id))
        except RestyleError as error:
            return error.message


def _is_upload(job: Job, claims: dict[int, Claim]) -> bool:
    """Whether WaveSpeedAI was given an upload of the picture: it may tell a copy on the same host."""
    path = unquote(urlsplit(job.source.uri).path)
    return not all(unquote(urlsplit(claim.request.image).path).endswith(path) for claim in claims.values())
