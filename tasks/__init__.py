"""Prefect tasks: the engine's steps with retries, names and events; and what flows that use them need."""

from prefect_wavespeed.tasks.assets import emit_batch_lineage
from prefect_wavespeed.tasks.chunk import restyle_chunk
from prefect_wavespeed.tasks.context import collect_task_runs, collecting_task_runs, current_batch, run_info
from prefect_wavespeed.tasks.download import download
from prefect_wavespeed.tasks.events import emit_rows_failed, sharing_events
from prefect_wavespeed.tasks.find import find
from prefect_wavespeed.tasks.poll import poll
from prefect_wavespeed.tasks.restyle import arestyle, restyle
from prefect_wavespeed.tasks.runtime import Runtime, open_runtime
from prefect_wavespeed.tasks.settle_open import settle_open
from prefect_wavespeed.tasks.submit import submit

__all__ = [
    "Runtime",
    "arestyle",
    "collect_task_runs",
    "collecting_task_runs",
    "current_batch",
    "download",
    "emit_batch_lineage",
    "emit_rows_failed",
    "find",
    "open_runtime",
    "poll",
    "restyle",
    "restyle_chunk",
    "run_info",
    "settle_open",
    "sharing_events",
    "submit",
]
