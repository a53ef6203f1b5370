"""Why a job is not done, and what to do next, for people."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction
from prefect_wavespeed.batch.report.rows import ReportRow
from prefect_wavespeed.inspect.job_view import JobView
from prefect_wavespeed.inspect.runs import BatchRun
from prefect_wavespeed.ledger.records import Failure
from prefect_wavespeed.steps.attempts import WITHOUT_OUTPUTS

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
_BATCH_AGAIN = "run the batch again"
_FIX = f"correct the row, then {_BATCH_AGAIN}"
_BY_ERROR = {
    "SourceError": f"put the picture there or correct the row, then {_BATCH_AGAIN}",
    "SourceDeniedError": f"let the credentials read the picture, then {_BATCH_AGAIN}",
    "InvalidRequestError": f"change the picture or the parameters that are named, then {_BATCH_AGAIN}",
    "AuthenticationError": f"see `restyle doctor --out {{out}}`, then {_BATCH_AGAIN}",
    "InsufficientCreditsError": f"top up the WaveSpeed account, then {_BATCH_AGAIN}",
    "BudgetExceededError": f"raise --max-cost-usd, then {_BATCH_AGAIN}",
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
    elif 5000 <= failure.code < 6000:
        advice = "WaveSpeedAI failed, not the picture: run it again later with --retry-failed"
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
    settle, attempt = _settle(out), job.open_job.latest
    if attempt in job.records:
        if not job.claims:
            return "run it again: only that says what was asked for"
        return _after_submission(prediction, settle, has_error=attempt in job.errors)
    if job.is_doubtful:
        return _resolve(job.key, out)
    if attempt in job.errors:  # settling has found nothing, and does not submit
        return "run it again, which submits it"
    if _is_claimed(job):
        return "wait: a runner has just claimed it and is about to submit it"
    return f"its runner is gone: run it again, or {settle}; both first find out whether it was submitted"


def next_step_of_row(row: ReportRow, out: str) -> str:
    """Return what to do next about a row of a batch that has no pictures, with commands to copy.

    Args:
        row: as the run has reported it; a later run may have stored it since.
        out: the output, as on the command line.
    """
    match row.status, row.error_type:
        case ("invalid", _):
            return _FIX
        case (("failed" | "given_up"), "PredictionFailedError"):
            failure = Failure(
                type="PredictionFailed",
                message=row.reason,
                code=row.error_code or 0,
                status="completed" if row.error_message == WITHOUT_OUTPUTS else "failed",
            )
            return after_failure(failure, out, row.image)
        case (_, "UnsureSubmissionError"):
            return _resolve(row.job_key or "", out)
        case ("open", "UnansweredSubmissionError"):  # settling does not submit
            return _BATCH_AGAIN
        case ("open", _) if not row.prediction_id:
            return f"{_BATCH_AGAIN}, or {_settle(out)}; both first find out whether it was submitted"
        case ("open", "OutputError"):
            return _stuck(_settle(out))
        case ("open", _):
            return f"{_settle(out)}, which stores it once it is ready and bills nothing"
    return _BY_ERROR.get(row.error_type or "", _BATCH_AGAIN).format(out=shlex.quote(out))


def _settle(out: str) -> str:
    return f"`restyle settle --out {shlex.quote(out)}`"


def _resolve(key: str, out: str) -> str:
    resolve = f"restyle resolve {key[:16]} --out {shlex.quote(out)}"
    return (
        "look the predictions up in your WaveSpeed account, then "
        f"`{resolve} --prediction ID`, or `{resolve} --not-submitted` if none is this job's"
    )


def _stuck(settle: str) -> str:
    """What to do about pictures that were billed and cannot be stored."""
    return (
        f"{settle} once what the reason names is fixed; if it cannot be, report the prediction's id to "
        "WaveSpeedAI, which has billed it, and make another picture of the source with variant 1"
    )


def _is_claimed(job: JobView) -> bool:
    """Whether the newest claim is younger than its lease."""
    claim = job.claims.get(job.open_job.latest)
    return claim is not None and datetime.now(UTC) - job.at < timedelta(seconds=claim.lease_seconds)


def _after_submission(prediction: Prediction | None, settle: str, *, has_error: bool) -> str:
    wait = f"wait for its runner to store it; if the runner is gone, run it again, or {settle}"
    if prediction and prediction.status in ENDED_BADLY:
        return "run it again, which tries up to three times in all"
    if has_error:
        return _stuck(settle)
    return f"its pictures are ready: {wait}" if prediction and prediction.terminal else wait


def next_step_of_run(run: BatchRun, out: str) -> str:
    """Return what to do about a run without a report."""
    return (
        f"no report yet, last change {run.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: wait if it is still "
        f"running; if its process died, {_BATCH_AGAIN}; or {_settle(out)} stores what was submitted. "
        "Only what it has reported so far is listed"
    )
