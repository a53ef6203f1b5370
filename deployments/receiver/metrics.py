"""Metrics of the receiver, and of the runs on the same machine, for Prometheus."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

import prefect_wavespeed.metrics  # noqa: F401 - so that the metrics of runs are 0 before the first one

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

REQUESTS = Counter(
    "restyle_receiver_requests",
    "Requests by path and status of the answer",
    ["path", "status"],
)
MESSAGES = Counter(
    "restyle_receiver_queue_messages",
    "Messages from SQS: done (deleted), left (delivered again), not_understood (left to the redrive policy)",
    ["outcome"],
)
EVENTS = Counter(
    "restyle_receiver_events",
    "Events that Prefect has accepted, repetitions included",
    ["event"],
)
IGNORED = Counter(
    "restyle_receiver_ignored",
    "Notifications that make no event: deletions, tests, unfinished predictions, odd records",
)
PREFECT_UP = Gauge(
    "restyle_receiver_prefect_up",
    "Whether Prefect last accepted events",
    multiprocess_mode="livemostrecent",
)

# In a series that begins at 0 the first increase shows, too.
for _path in ("/s3", "/wavespeed"):
    for _status in (200, 400, 401, 503):
        REQUESTS.labels(_path, _status)
for _outcome in ("done", "left", "not_understood"):
    MESSAGES.labels(_outcome)


def latest() -> bytes:
    """Return all metrics in Prometheus's text format.

    A run's process may be gone before Prometheus scrapes it. Where PROMETHEUS_MULTIPROC_DIR names a
    directory, prometheus_client keeps the metrics of all processes in it, and their sums are returned.
    """
    if not (directory := os.environ.get(_DIRECTORY)):
        return generate_latest(REGISTRY)
    for file in Path(directory).glob("gauge_live*.db"):
        if (number := re.search(r"_(\d+)\.db$", file.name)) and not _is_alive(int(number[1])):
            mark_process_dead(int(number[1]))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
