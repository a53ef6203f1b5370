"""Prometheus metrics of this process, in the default registry of its client library.

Prefect serves that registry in the process of a run (PREFECT_CLIENT_METRICS_ENABLED), the receiver at
/metrics. They count what this process did; what an output has cost is added up by `restyle costs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

JOBS = Counter(
    "restyle_jobs",
    "Jobs that this process ended: stored, found (stored earlier, not billed again) or failed for good",
    ["outcome"],
)
SECONDS = Histogram(
    "restyle_job_seconds",
    "From the claim of a job to its side-car, in seconds",
    buckets=(1, 2, 3, 5, 8, 13, 21, 34, 60, 120, 300, 900, float("inf")),
)
SPENT = Counter("restyle_spent_usd", "Quoted price of what was submitted, in USD; refunds are not subtracted")
IN_FLIGHT = Gauge("restyle_predictions_in_flight", "Predictions in flight", multiprocess_mode="livesum")
SUBMISSIONS = Counter(
    "restyle_submissions",
    "Submissions: accepted, refused, rate_limited (429), unsent (no connection), unanswered (may be billed)",
    ["outcome"],
)
RETRIES = Counter("restyle_retries", "Accepted submissions of jobs whose earlier attempts failed")
ADOPTIONS = Counter("restyle_adoptions", "Submissions without an answer that the history showed")
WARNINGS = Counter("restyle_warnings", "What is wrong with outputs that this process stored", ["code"])
ANSWERS = Counter(
    "restyle_api_answers", "Answers of the API by HTTP status; none where there was no answer", ["status"]
)

# Prometheus sees the first increase only of a series that begins at 0.
STORED, FOUND, FAILED = map(JOBS.labels, ("stored", "found", "failed"))
for _outcome in ("accepted", "refused", "rate_limited", "unsent", "unanswered"):
    SUBMISSIONS.labels(_outcome)
for _code in (
    *("missing_outputs", "extra_outputs", "size_differs", "format_differs"),
    *("not_checked", "blank", "unusual"),
):
    WARNINGS.labels(_code)
for _status in (200, 400, 429, 500, 503, "none"):
    ANSWERS.labels(_status)


def stored(claimed: datetime | None, stored: datetime, warnings: Iterable[str] = ()) -> None:
    """Count a job whose side-car has been written, and its warnings by their codes."""
    STORED.inc()
    for code in warnings:
        WARNINGS.labels(code).inc()
    if claimed:
        # by two clocks: the store's and ours
        SECONDS.observe(max(0.0, (stored - claimed).total_seconds()))


def adopted(usd: float | None) -> None:
    """Count a submission without an answer whose prediction was found in the history, at its price in USD."""
    ADOPTIONS.inc()
    SPENT.inc(usd or 0)
