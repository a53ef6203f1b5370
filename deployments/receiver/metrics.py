"""What the receiver counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

REQUESTS = Counter(
    "restyle_receiver_requests", "Requests by path and by the status of the answer", ["path", "status"]
)
MESSAGES = Counter(
    "restyle_receiver_queue_messages",
    "Messages from the SQS queue: done (deleted), left (come again), not_understood (left to its redrive policy)",
    ["outcome"],
)
EVENTS = Counter("restyle_receiver_events", "Events that Prefect has taken, repetitions included", ["event"])
IGNORED = Counter(
    "restyle_receiver_ignored", "What was told and makes no event: deletions, tests, unfinished predictions"
)
PREFECT_UP = Gauge("restyle_receiver_prefect_up", "Whether Prefect took events when last asked")
QUEUE_UP = Gauge("restyle_receiver_queue_up", "Whether the SQS queue could be read when last asked")
