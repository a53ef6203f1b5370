"""What passes from step to step: an attempt at a job, submitted and then polled."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from pydantic import BaseModel

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.refusals import RETRY_EXHAUSTED
from prefect_wavespeed.errors import redact
from prefect_wavespeed.job import Job, Restyled

# What a failure without a code says when a server behind WaveSpeedAI was at fault.
_TEMPORARY = re.compile(r"(?i)\bHTTP (5\d\d|429)\b")

WITHOUT_OUTPUTS = "completed without outputs"


class Submitted(BaseModel):
    """A job's attempt, submitted by this runner or another one; or a job that is done already.

    Attributes:
        restyled: what is stored of a job that is done; it needs no polling.
        flow_run_id: the flow run that made the claim; None where the claim is gone, or no flow made it.
        fresh: this call submitted it.
        last_attempt: when this one fails, the job has failed.
    """

    job_key: str
    prediction_id: str
    attempt: int = 0
    restyled: Restyled | None = None
    flow_run_id: str | None = None
    fresh: bool = False
    last_attempt: bool = False


class Polled(BaseModel):
    """How an attempt ended: completed, or failed in a way that allows another.

    Attributes:
        inference_ms: how long the model took, in milliseconds, where the API says so.
        error: why it failed.
    """

    prediction_id: str
    completed: bool
    inference_ms: float | None = None
    error: str = ""


Admit = Callable[[Job, int, float | None], Awaitable[None]]
"""Awaited before each claim: the job, the attempt's number, its price in USD where it is known."""


def describe_end(prediction: Prediction) -> str:
    """How a prediction ended, in one line, without its id."""
    if prediction.status == "completed":
        return WITHOUT_OUTPUTS
    code = f" (code {prediction.code})" if prediction.code else ""
    reason = redact(prediction.error) or "no reason given"
    return f"{reason if prediction.status == 'failed' else f'{prediction.status}: {reason}'}{code}"


def allows_another_attempt(prediction: Prediction) -> bool:
    """Whether WaveSpeedAI says that another attempt may succeed: by the code, or by the text without one."""
    code = prediction.code
    return prediction.status == "timeout" or (
        prediction.status == "failed"
        and (
            5000 <= code < 6000
            or code == RETRY_EXHAUSTED
            or (not code and bool(_TEMPORARY.search(prediction.error)))
        )
    )
