"""What the tasks share: an open client and store for each block and output, and who is running."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import prefect
from prefect import runtime
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from blocks.output import open_output
from blocks.wavespeed import load_wavespeed
from restyle.client import WaveSpeedClient
from restyle.errors import PredictionTimeoutError, RestyleError, clean
from restyle.jobs import Job, RunInfo
from restyle.steps import Steps
from restyle.store import Store

DEFAULT_OUTPUT = "s3-bucket/restyle-output"
"""The block that `restyle setup --out s3://…` makes."""

# The task runs of the flow run under way, for the side-car.
_task_runs: ContextVar[list[str] | None] = ContextVar("task_runs", default=None)


def worth_retrying(error: object) -> bool:
    """Whether to try again at once. A prediction that was waited for long enough is left to a later run."""
    return (
        isinstance(error, RestyleError) and error.retryable and not isinstance(error, PredictionTimeoutError)
    )


def _worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    # not state.result(): inside an async task that is a coroutine, which would turn retries off silently
    return worth_retrying(state.data)


# A result cache is no ledger: it forgets, and it misses when its storage is down. Nothing is cached here.
TASK_OPTIONS: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "tags": ["wavespeed"],
}


class Runtime:
    """An open client and store, shared by all runs of this event loop that use the same block and output.

    Attributes:
        steps: the engine's steps.
        store: where outputs go.
    """

    def __init__(self, client: WaveSpeedClient, store: Store, rpm: int | None, in_flight: int | None) -> None:
        self.steps = Steps(client, store, admit=self.admit)
        self.store = store
        self._client = client
        self._interval = 60 / rpm if rpm else 0.0
        self._next = 0.0
        self._slots: AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(in_flight) if in_flight else nullcontext()
        )

    @classmethod
    async def open(cls, wavespeed: str, output: str) -> Runtime:
        """Open what a block's name and an output's name stand for."""
        store = await open_output(output)
        block = await load_wavespeed(wavespeed)
        return cls(block.get_client(), store, block.requests_per_minute, block.max_in_flight)

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()

    def in_flight(self) -> AbstractAsyncContextManager[Any]:
        """One of the block's ``max_in_flight`` places, waited for when all are taken."""
        return self._slots

    async def admit(self, job: Job, attempt: int, usd: float | None) -> None:
        """Wait for the next submission that the block's ``requests_per_minute`` allow."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)


class _Shared:
    """A Runtime that is open as long as somebody uses it."""

    def __init__(self, wavespeed: str, output: str) -> None:
        self._names = (wavespeed, output)
        self._lock = asyncio.Lock()
        self._users = 0
        self._runtime: Runtime | None = None

    async def __aenter__(self) -> Runtime:
        async with self._lock:
            self._runtime = self._runtime or await Runtime.open(*self._names)
            self._users += 1
            return self._runtime

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users and self._runtime:
            closing, self._runtime = self._runtime, None
            await closing.close()


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Shared]] = WeakKeyDictionary()


@asynccontextmanager
async def opened(wavespeed: str, output: str) -> AsyncIterator[Runtime]:
    """The Runtime for a block and an output. Errors that leave it are safe to log and to store.

    Args:
        wavespeed: name of a `WaveSpeed` block.
        output: block, ``s3://bucket/prefix`` or directory.

    Raises:
        ConfigurationError: one of them does not exist or cannot be used.
    """
    of_loop = _shared.setdefault(asyncio.get_running_loop(), {})
    shared = of_loop.setdefault((wavespeed, output), _Shared(wavespeed, output))
    with safe_errors():
        async with shared as runtime:
            yield runtime


@contextmanager
def safe_errors() -> Iterator[None]:
    """Let only errors of this package out, on their own.

    Prefect logs and stores what a task raises together with what that was raised from, and errors of
    HTTP clients hold requests: URLs with signatures, headers with keys.
    """
    try:
        yield
    except RestyleError as error:
        raise error from None
    except Exception as error:  # a defect: keep where it happened and drop what it holds
        message = f"unexpected {type(error).__name__}: {clean(error)}"
        raise RestyleError(message).with_traceback(error.__traceback__) from None


@contextmanager
def task_runs_noted() -> Iterator[None]:
    """Collect the ids of the task runs inside, for ``run_info``."""
    token = _task_runs.set([])
    try:
        yield
    finally:
        _task_runs.reset(token)


def run_info() -> RunInfo:
    """Who is running now: the flow run, the deployment and the task runs so far."""
    noted = _task_runs.get()
    task_runs = [] if noted is None else noted
    if (task_run := runtime.task_run.id) and task_run not in task_runs:
        task_runs.append(task_run)
    return RunInfo(
        flow=runtime.flow_run.flow_name,
        flow_run_id=runtime.flow_run.id,
        flow_run_name=runtime.flow_run.name,
        deployment=runtime.deployment.name,
        task_run_ids=list(task_runs),
        prefect_version=prefect.__version__,
        package_version=_package_version(),
        git_commit=_git_commit(),
    )


@cache
def _package_version() -> str:
    try:
        return version("wavespeed-restyle-flows")
    except PackageNotFoundError:  # run from a source tree
        return "0+unknown"


@cache
def _git_commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():  # installed, or in somebody else's repository
        return None
    told = subprocess.run([git, "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)  # noqa: S603
    return told.stdout.strip() or None
