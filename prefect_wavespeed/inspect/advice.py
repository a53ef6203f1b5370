"""Why a job is not done, and what to do next, for people."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.ledger.records import Failure

_AGAIN = "then run it again with --retry-failed"
_COSTS = "`restyle costs --out {out}`"
_BY_CODE = {
    1200: "WaveSpeedAI's moderation refused it: use another picture",
    1400: "change the parameters, which makes it another job",
    1401: "change the parameters, which makes it another job",
    1402: f"make the picture's URL reachable for WaveSpeedAI, {_AGAIN}",
}
# A file or an S3 object is fetched through a URL of ours.
_OUR_URL_UNREACHABLE = "run it again with --retry-failed: it is uploaded or signed again if its URL is gone"
_BY_TYPE = {
    "SourceError": "replace the picture with one that can be used, which makes it another job",
    "PredictionLost": f"check with {_COSTS} whether it was billed, {_AGAIN}, which is billed again",
    "AttemptsUsedUp": f"see the errors of its attempts, {_AGAIN}",
    "NeverSubmitted": f"check with {_COSTS} whether it was billed, {_AGAIN}",
}


def reason(job: JobView) -> str:
    """Return why the job is not done; empty if it is."""
    if job.unreadable:
        return "written by another version of this package"
    if job.letter and job.status == "failed":
        return job.letter.error.message
    if job.status != "open":
        return ""
    attempt = job.open_job.latest
    if job.is_doubtful:
        return f"it is not known whether attempt {attempt} was submitted"
    error = f"{job.errors[attempt]}: " if attempt in job.errors else ""
    if attempt in job.records:
        return f"{error}attempt {attempt} is submitted, and its pictures are not stored yet"
    return f"{error}attempt {attempt} is claimed, and no prediction is recorded"


def after_failure(failure: Failure, out: str, source: str) -> str:
    """Return what to do about a job that failed for good.

    Args:
        failure: from its dead letter.
        out: the output, as on the command line.
        source: URI of its source.
    """
    if failure.type != "PredictionFailed":
        advice = _BY_TYPE.get(failure.type, f"see what is wrong, {_AGAIN}")
    elif failure.status == "completed":
        advice = f"it was billed without a picture: report the prediction's id to WaveSpeedAI, {_AGAIN}"
    elif failure.code == 1402 and not source.startswith(("https://", "http://")):
        advice = _OUR_URL_UNREACHABLE
    else:
        advice = _BY_CODE.get(failure.code, f"see WaveSpeedAI's error, {_AGAIN}")
    return advice.format(out=shlex.quote(out))


def next_step(job: JobView, out: str, prediction: Prediction | None = None) -> str:
    """Return what to do next about a job, with commands to copy.

    Args:
        job: the job.
        out: the output, as on the command line.
        prediction: its newest attempt's, as WaveSpeedAI reports it now; None where that is unknown.
    """
    if job.unreadable:
        return "upgrade prefect-wavespeed"
    if job.letter and job.status == "failed":
        return after_failure(job.letter.error, out, job.letter.source.uri)
    if job.status == "done":
        return "nothing: running it again returns what is stored and bills nothing"
    settle = f"`restyle settle --out {shlex.quote(out)}`"
    if job.open_job.latest in job.records:
        return _after_submission(prediction, settle)
    if job.is_doubtful:
        resolve = f"restyle resolve {job.key[:16]} --out {shlex.quote(out)}"
        return (
            "look the predictions up in your WaveSpeed account, then "
            f"`{resolve} --prediction ID`, or `{resolve} --not-submitted` if none is this job's"
        )
    if _is_claimed(job):
        return "wait: a runner has just claimed it and is about to submit it"
    return f"its runner is gone: run it again, or {settle}; both first find out whether it was submitted"


def _is_claimed(job: JobView) -> bool:
    """Whether the newest claim is younger than its lease."""
    claim = job.claims.get(job.open_job.latest)
    return claim is not None and datetime.now(UTC) - job.at < timedelta(seconds=claim.lease_seconds)


def _after_submission(prediction: Prediction | None, settle: str) -> str:
    wait = f"wait for its runner to store it; if the runner is gone, run it again, or {settle}"
    if prediction is None or not prediction.terminal:
        return wait
    if prediction.status in ENDED_BADLY:
        return f"run it again, which tries up to three times; {settle} closes it if no further try can help"
    return f"its pictures are ready: {wait}"
