"""What the receiver counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

REQUESTS = Counter(
    "restyle_receiver_requests", "Requests by path and by the status of the answer", ["path", "status"]
)
MESSAGES = Counter(
    "restyle_receiver_queue_messages",
    "Messages from SQS: done (deleted), left (come again) or not_understood (left to the redrive policy)",
    ["outcome"],
)
EVENTS = Counter("restyle_receiver_events", "Events that Prefect has taken, repetitions included", ["event"])
IGNORED = Counter(
    "restyle_receiver_ignored", "What was told and makes no event: deletions, tests, unfinished predictions"
)
PREFECT_UP = Gauge("restyle_receiver_prefect_up", "Whether Prefect took events when last asked")
