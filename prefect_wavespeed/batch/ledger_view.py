"""What the ledger holds of a batch's jobs, as far as a batch needs to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from prefect_wavespeed.batch.outcome import JobOutcome
from prefect_wavespeed.batch.patience import patiently
from prefect_wavespeed.concurrency import map_all
from prefect_wavespeed.job import Job
from prefect_wavespeed.ledger.ledger import Ledger, Look
from prefect_wavespeed.ledger.records import DeadLetter, Metadata, OpenJob
from prefect_wavespeed.ledger.sidecar import restyled_from

_CONCURRENCY = 32


@dataclass(frozen=True)
class JobState:
    """What the ledger holds of a job.

    Attributes:
        metadata: its side-car, if it is done.
        dead_letter: its dead letter, if it has failed for good.
        open_job: its unfinished attempts.
        paid_attempts: how many of its attempts this run has paid for.
    """

    metadata: Metadata | None
    dead_letter: DeadLetter | None
    open_job: OpenJob
    paid_attempts: int

    @property
    def is_new(self) -> bool:
        """Whether the ledger holds nothing of it."""
        return self.metadata is None and self.dead_letter is None and not self.open_job.latest

    @property
    def is_submitted(self) -> bool:
        """Whether a prediction is recorded that no dead letter is about."""
        latest_recorded = max(self.open_job.recorded, default=0)
        return latest_recorded > (self.dead_letter.last_attempt if self.dead_letter else 0)


class LedgerView:
    """Reads the states of jobs for one run.

    Args:
        ledger: where they are.
        flow_run_id: the run; for a shard that of the whole batch.
    """

    def __init__(self, ledger: Ledger, flow_run_id: str | None) -> None:
        self._ledger = ledger
        self._flow_run_id = flow_run_id

    def is_own(self, flow_run_id: str | None) -> bool:
        """Whether it was this run that submitted something, in this try or an earlier one."""
        return flow_run_id is not None and flow_run_id == self._flow_run_id

    async def states(self, jobs: Sequence[Job], *, done: bool = False) -> list[JobState]:
        """Read the states of jobs, in their order.

        Args:
            jobs: that may be in any state.
            done: they have side-cars and nothing else, as a listing says: nothing else is read.

        Raises:
            StoreError: the store cannot be read now.
        """
        return await map_all(patiently(partial(self._state, done=done)), jobs, _CONCURRENCY)

    async def _state(self, job: Job, *, done: bool) -> JobState:
        look = Look(await self._ledger.side_car(job) if done else None, None, OpenJob())
        metadata, dead_letter, open_job = look if look.side_car else await self._ledger.look(job)
        claims = [] if metadata else [await self._ledger.read_claim(job.key, n) for n in open_job.claimed]
        closed = metadata or dead_letter
        attempts = closed.attempts if closed else []
        submitters = [attempt.flow_run_id for attempt in attempts if attempt.prediction_id]
        submitters += [claim.flow_run_id for claim in claims if claim]
        return JobState(metadata, dead_letter, open_job, sum(map(self.is_own, submitters)))

    async def prediction_id(self, job: Job, attempt: int) -> str | None:
        """The prediction that is recorded for an attempt.

        Raises:
            StoreError: the store cannot be read now.
        """
        record = await self._ledger.read_record(job.key, attempt)
        return record.prediction_id if record else None

    async def remove_leftovers(self, job: Job, state: JobState) -> None:
        """Remove what is still open of a job that is done.

        Raises:
            StoreError: the store cannot be used now.
        """
        await self._ledger.close(job.key, state.open_job, state.open_job.latest, done=True)

    def stored_outcome(self, job: Job, metadata: Metadata, state: JobState) -> JobOutcome:
        """The outcome of a job that is done: by an earlier try of this run if that paid for it."""
        paid = state.paid_attempts > 0
        return JobOutcome.of_pictures(
            restyled_from(self._ledger.store, job, metadata, cached=not paid),
            paid=paid,
            attempts=len(metadata.attempts) if paid else None,
        )
