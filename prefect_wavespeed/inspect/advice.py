"""Why a job stands where it stands, and what to do next, for people."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

from prefect_wavespeed.api.predictions import ENDED_BADLY, Prediction
from prefect_wavespeed.inspect.jobs import JobView
from prefect_wavespeed.ledger.records import Failure

_AGAIN = "then run it again with --retry-failed"
_COSTS = "`restyle costs --out {out}`"
_BY_CODE = {
    1200: "WaveSpeedAI's moderation refused it: use another picture",
    1400: "change the parameters: that makes another job",
    1401: "change the parameters: that makes another job",
    1402: f"let WaveSpeedAI reach the picture's URL, {_AGAIN}",
}
# A file or an S3 object has no URL but the one that we give it.
_OURS_UNREACHED = "run it again with --retry-failed: it is uploaded or signed anew if its URL is gone"
_BY_TYPE = {
    "SourceError": "put a picture that can be used in its place: that makes another job",
    "PredictionLost": f"see with {_COSTS} whether it was billed, {_AGAIN}: that is billed anew",
    "AttemptsUsedUp": f"see with {_COSTS} whether any was billed, {_AGAIN}: that is billed anew",
    "NeverSubmitted": "nothing was billed: run it again with --retry-failed",
}


def reason(facts: JobView) -> str:
    """Why the job is not done; empty where it is."""
    if facts.unreadable:
        return "written by another version of this package"
    if facts.letter and facts.status == "failed":
        return facts.letter.error.message
    if facts.status != "open":
        return ""
    attempt = facts.open_job.latest
    record = facts.records.get(attempt)
    if record:
        return f"attempt {attempt} is submitted: prediction {record.prediction_id}"
    return f"attempt {attempt} is claimed, and no prediction is recorded"


def after_failure(failure: Failure, out: str, source: str) -> str:
    """What to do about a job that was given up; of its output, as commands are told, and its source's uri."""
    if failure.type != "PredictionFailed":
        advice = _BY_TYPE.get(failure.type, f"see what is wrong, {_AGAIN}")
    elif failure.status == "completed":
        advice = f"it was billed without a picture: tell WaveSpeedAI the prediction's id, {_AGAIN}"
    elif failure.code == 1402 and not source.startswith(("https://", "http://")):
        advice = _OURS_UNREACHED
    else:
        advice = _BY_CODE.get(failure.code, f"see what WaveSpeedAI says of it, {_AGAIN}")
    return advice.format(out=shlex.quote(out))


def next_step(facts: JobView, out: str, prediction: Prediction | None = None) -> str:
    """What to do next, with commands that can be pasted.

    Args:
        facts: the job's.
        out: the output, as commands are told.
        prediction: of its newest attempt, as WaveSpeedAI tells it now; None where that is not known.
    """
    if facts.unreadable:
        return "upgrade prefect-wavespeed"
    if facts.letter and facts.status == "failed":
        return after_failure(facts.letter.error, out, facts.letter.source.uri)
    if facts.status == "done":
        return "nothing: run again, it returns what is stored and bills nothing"
    settle = f"`restyle settle --out {shlex.quote(out)}`"
    if facts.open_job.latest in facts.records:
        return _after_submission(prediction, settle)
    claim = facts.claims.get(facts.open_job.latest)
    lease = timedelta(seconds=claim.lease_seconds) if claim else timedelta()
    if datetime.now(UTC) - facts.at < lease:
        return "wait: a runner has just claimed it and is about to submit it"
    return f"its runner is gone: run it again, which first looks up whether it was submitted; or {settle}"


def _after_submission(prediction: Prediction | None, settle: str) -> str:
    if prediction is None or not prediction.terminal:
        return f"wait for its runner; where that is gone, {settle} or the same run again stores it"
    if prediction.status in ENDED_BADLY:
        return f"run it again: what failed may be tried up to three times; or {settle} closes it"
    return f"its pictures are ready: its runner stores them, or {settle}, or the same run again"
