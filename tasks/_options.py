"""What all tasks have in common: their options, and errors that may be logged and stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from prefect_wavespeed.errors import RestyleError, redact, worth_retrying


def _worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    # not state.result(): inside an async task that is a coroutine, which would turn retries off silently
    return worth_retrying(state.data)


# Nothing is cached: Prefect's result cache loses entries and misses while its storage is down. The ledger
# is what keeps a job from being billed again. And no tags: at a task's start Prefect asks the server whether
# one of them is limited, which is slow under load, and fails while the server is away.
TASK_OPTIONS: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@contextmanager
def safe_errors() -> Iterator[None]:
    """Let only errors of this package pass, without the errors that caused them.

    Prefect logs and stores what a task raises together with its cause, and errors of HTTP clients hold
    requests: URLs with signatures, headers with keys.
    """
    try:
        yield
    except RestyleError as error:
        raise error from None
    except Exception as error:  # a defect: its traceback is kept, the objects that it holds are not
        message = f"unexpected {type(error).__name__}: {redact(error)}"
        raise RestyleError(message).with_traceback(error.__traceback__) from None
