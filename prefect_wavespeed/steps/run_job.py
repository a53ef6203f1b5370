"""One job from wherever it is to its end, by whatever carries out its steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from pydantic import ValidationError

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.errors import InvalidRequestError
from prefect_wavespeed.job import Job, Restyled, Source
from prefect_wavespeed.sources.identify import identify
from prefect_wavespeed.sources.sizes import with_size
from prefect_wavespeed.steps.attempts import Polled, Submitted
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import requirement


class SubmitStep(Protocol):
    """``StepSet.submit``, or a task around it; ``after`` is the attempt that is known to have failed."""

    def __call__(self, job: Job, *, after: int) -> Awaitable[Submitted]:
        """Submit the job, or find its prediction."""
        ...


class PollStep(Protocol):
    """``StepSet.poll``, or a task around it."""

    def __call__(self, job: Job, submitted: Submitted) -> Awaitable[Polled]:
        """Wait for the prediction's end."""
        ...


class DownloadStep(Protocol):
    """``StepSet.download``, or a task around it."""

    def __call__(self, job: Job, submitted: Submitted) -> Awaitable[Restyled]:
        """Store the outputs."""
        ...


async def make_job(
    image: str, params: ReduxParams, variant: int, store: Store, source: Source | None = None
) -> Job:
    """Identify the source and make its job. What cannot be done is refused before anything is spent.

    Args:
        image: https URL, ``s3://bucket/key``, or a local path.
        params: how to restyle it.
        variant: another picture of the same source: 0, 1, 2, …
        store: where the outputs go.
        source: the picture that ``image`` means, where that is known already.

    Raises:
        SourceError: the source is missing, empty, or too big; a file that is no image.
        InvalidRequestError: an explicit seed together with a variant, or a negative variant.
    """
    source = source or await identify(image, store)
    params = await with_size(params, source, store)
    try:
        return Job(source=source, params=params, variant=variant)
    except ValidationError as error:
        problem = requirement(error.errors()[0])
        raise InvalidRequestError(f"variant {variant}: {problem}", field="variant") from None


async def run_job(
    job: Job,
    submit: SubmitStep,
    poll: PollStep,
    download: DownloadStep,
    slot: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext,
) -> Restyled:
    """Take a job from wherever it is to its end.

    Args:
        job: what to do.
        submit: ``StepSet.submit``, or a task around it.
        poll: ``StepSet.poll``, or a task around it.
        download: ``StepSet.download``, or a task around it.
        slot: a slot in flight, held from the submission until the prediction has ended; no longer.

    Returns:
        What is stored.

    Raises:
        RestyleError: whatever a step raises.
    """
    after = 0
    while True:
        async with slot():
            submitted = await submit(job, after=after)
            if submitted.restyled:
                return submitted.restyled
            polled = await poll(job, submitted)
        if polled.completed:
            return await download(job, submitted)
        after = submitted.attempt
