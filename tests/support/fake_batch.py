"""A batch through the engine on an API that answers at once: no network, no process, a directory as store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.batch.job_runner import Carrier
from prefect_wavespeed.batch.options import BatchOptions
from prefect_wavespeed.batch.progress import OnProgress
from prefect_wavespeed.batch.report.rows import ReportRow, Summary
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.errors import AuthenticationError, PredictionFailedError, RestyleError
from prefect_wavespeed.job import Job, Output, Restyled, RunInfo
from prefect_wavespeed.ledger.rules import MAX_ATTEMPTS
from prefect_wavespeed.retry import instant_retries
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.storage.open_store import directory_store
from tests.support.records import report_rows

FOLDER = "runs/dt=2026-01-01/run"
IMAGE = "https://example.com/{}.jpg"


@dataclass
class FakeApi:
    """WaveSpeedAI and the steps on it.

    Attributes:
        usd: price of a picture.
        balance_usd: of the account; None for a refused key.
        refusals: by image, what its submissions raise, one after another.
        failing: by image, how many of its attempts fail.
        errors: by image, what polling raises.
        seconds: by image, how long its prediction takes.
        ended: by image, what its prediction waits for besides.
        done: images that are stored already.
        joined: by image, the flow run whose prediction is joined.
        submissions: image and attempt of each that was accepted.
        on_submit: called with the image of each submission that is accepted.
        on_balance: seconds that the balance call takes.
        refused: submissions that raised something.
        charged_usd: what the accepted submissions cost.
    """

    usd: float = 0.025
    balance_usd: float | None = 100.0
    refusals: dict[int, list[Exception]] = field(default_factory=dict)
    failing: Counter[int] = field(default_factory=Counter)
    errors: dict[int, Exception] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    ended: dict[int, asyncio.Event] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    joined: dict[int, str] = field(default_factory=dict)
    on_submit: Callable[[int], None] = lambda _: None
    on_balance: Callable[[], float] = lambda: 0.0
    submissions: list[tuple[int, int]] = field(default_factory=list)
    refused: int = 0
    charged_usd: float = 0.0
    in_flight: int = 0
    max_in_flight: int = 0

    # -- the client, as far as a batch uses it ------------------------------------------------------

    async def balance(self) -> float:
        await asyncio.sleep(self.on_balance())
        if self.balance_usd is None:
            raise AuthenticationError("the key is refused")
        return self.balance_usd

    async def price(self, request: ReduxRequest) -> Quote:
        return Quote(usd=self.usd * request.num_images)

    async def result(self, prediction_id: str) -> Prediction:
        failed = self.failing[int(prediction_id.split("-")[0])]
        return Prediction(id=prediction_id, status="failed" if failed else "processing")

    # -- the steps ----------------------------------------------------------------------------------

    def carrier(self, batch: Batch) -> Carrier:
        """The steps of a batch."""

        async def submit(job: Job, *, after: int) -> Submitted:
            number, attempt = number_of(job), after + 1
            if number in self.done:
                restyled = self._restyled(job, cached=True)
                return Submitted(job_key=job.key, prediction_id="old", restyled=restyled)
            if owner := self.joined.get(number):
                self._fly()
                return Submitted(
                    job_key=job.key, prediction_id=f"{number}-{attempt}", attempt=attempt, flow_run_id=owner
                )
            await batch.admit(job, attempt)
            await asyncio.sleep(0.001)
            if self.refusals.get(number):
                self.refused += 1
                raise self.refusals[number].pop(0)
            self.on_submit(number)
            self.submissions.append((number, attempt))
            self.charged_usd += self.usd
            self._fly()
            return Submitted(
                job_key=job.key,
                prediction_id=f"{number}-{attempt}",
                attempt=attempt,
                flow_run_id="run",
                fresh=True,
            )

        async def poll(job: Job, submitted: Submitted) -> Polled:
            number = number_of(job)
            try:
                await asyncio.sleep(self.seconds.get(number, 0.002))
                if number in self.ended:
                    await self.ended[number].wait()
            finally:
                self.in_flight -= 1
            if number in self.errors:
                raise self.errors[number]
            if self.failing[number]:
                self.failing[number] -= 1
                if submitted.attempt == MAX_ATTEMPTS:
                    raise PredictionFailedError("it failed 3 times: use another picture")
                self.joined.pop(number, None)
                return Polled(prediction_id=submitted.prediction_id, completed=False)
            return Polled(prediction_id=submitted.prediction_id, completed=True)

        async def download(job: Job, submitted: Submitted) -> Restyled:
            return self._restyled(job, submitted.prediction_id)

        return Carrier(submit, poll, download)

    def _fly(self) -> None:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def _restyled(self, job: Job, prediction_id: str = "old", *, cached: bool = False) -> Restyled:
        return Restyled(
            job_key=job.key,
            prediction_id=prediction_id,
            cached=cached,
            cost_usd=0.0 if cached else self.usd,
            seed=job.seed,
            outputs=[Output(uri=f"s3://out/{job.name}/1.jpeg")],
            metadata_uri=f"s3://out/{job.name}/metadata.json",
        )


def number_of(job: Job) -> int:
    """The number of a job's image."""
    return int(job.source.name.removesuffix(".jpg"))


def images(count: int) -> list[str]:
    """So many images."""
    return [IMAGE.format(number) for number in range(1, count + 1)]


@dataclass
class Carried:
    """How a batch ended: its summary and report, and why it counts as failed."""

    summary: Summary
    rows: list[ReportRow]
    error: RestyleError | None
    folder: Path

    @property
    def statuses(self) -> list[str]:
        """The status of each row."""
        return [row.status for row in self.rows]


async def carry_out(
    api: FakeApi,
    output: Path,
    manifest: str | Sequence[str],
    options: BatchOptions | None = None,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Carried:
    """Carry out a batch without waiting between tries, and read its report back."""
    store, run = directory_store(output), RunInfo(package_version="test", flow_run_id="run")
    options = options or BatchOptions()
    client = cast("WaveSpeedClient", api)
    with instant_retries():
        async with Batch(client, store, run, FOLDER, options, on_progress=on_progress) as batch:
            await batch.read(manifest)
            await batch.afford()
            await batch.carry_out(api.carrier(batch).with_retries())
            summary = await batch.close()
            folder = output / FOLDER
            rows = report_rows((folder / "report.jsonl").read_bytes())
            return Carried(summary, rows, batch.verdict(summary), folder)
