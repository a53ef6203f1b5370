"""What the tasks share: an open client and store for each block and output, and who is running."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import prefect
from prefect import runtime
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.batch.run import Batch
from prefect_wavespeed.blocks.output import open_output
from prefect_wavespeed.blocks.wavespeed import WaveSpeed, load_wavespeed
from prefect_wavespeed.errors import RestyleError, redact, worth_retrying
from prefect_wavespeed.job import Job, NsfwPolicy, Restyled, RunInfo
from prefect_wavespeed.steps.step_set import Polled, StepSet, Submitted
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.tasks._allowance import Allowance
from prefect_wavespeed.tasks._events import failed_event, stored_event, submitted_event
from prefect_wavespeed.tasks._webhooks import Listener
from prefect_wavespeed.version import package_version

_T = TypeVar("_T")

# The task runs of the flow run under way, for the side-car.
_task_runs: ContextVar[list[str] | None] = ContextVar("task_runs", default=None)


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
        client: the API.
        store: where outputs go.
        steps: the engine's steps on both, untold.
        slot: a slot in flight, as the block allows.
    """

    def __init__(
        self, client: WaveSpeedClient, store: Store, allowance: Allowance, listener: Listener
    ) -> None:
        self.client = client
        self.store = store
        self.steps = StepSet(
            client, store, admit=self._admit, on_thumbnail=_keep_thumbnail, inbox=listener.inbox
        )
        self.slot = allowance.slot
        self._allowance = allowance
        self._listener = listener

    async def submit(self, job: Job, **options: Any) -> Submitted:
        """``StepSet.submit`` by who is running now; told as an event."""
        with failed_event(job, self.store.uri):
            batch = batch_under_way.get()
            webhook_url = await self._listener.webhook(wait=batch is None or batch.options.wait)
            submitted = await self.steps.submit(job, run=run_info(), webhook_url=webhook_url, **options)
        if submitted.restyled:  # told again, under the same id: the run that stored it may have been killed
            stored_event(job, self.store.uri, submitted.restyled)
        else:
            submitted_event(job, self.store.uri, submitted)
        return submitted

    async def poll(self, job: Job, submitted: Submitted) -> Polled:
        """``StepSet.poll``; told as an event when the job has failed for good."""
        with failed_event(job, self.store.uri):
            return await self.steps.poll(job, submitted)

    async def download(self, job: Job, submitted: Submitted, *, nsfw: NsfwPolicy) -> Restyled:
        """``StepSet.download`` by who is running now; told as an event."""
        with failed_event(job, self.store.uri):
            restyled = await self.steps.download(job, submitted, run=run_info(), nsfw=nsfw)
        stored_event(job, self.store.uri, restyled)
        return restyled

    async def _admit(self, job: Job, attempt: int, usd: float | None) -> None:
        await self._allowance.turn()
        if batch := batch_under_way.get():
            await batch.admit(job, attempt)


batch_under_way: ContextVar[Batch | None] = ContextVar("batch_under_way", default=None)
"""The batch of the flow run under way, where it is one: too big to be a task's parameter."""


def _keep_thumbnail(job_key: str, index: int, picture: bytes) -> None:
    if batch := batch_under_way.get():
        batch.table.keep_thumbnail(job_key, index, picture)


class _Shared(Generic[_T]):
    """Something that is open as long as somebody uses it."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        self._opening = opening
        self._lock = asyncio.Lock()
        self._users = 0
        self._stack = AsyncExitStack()
        self._there: _T

    @asynccontextmanager
    async def used(self) -> AsyncIterator[_T]:
        async with self._lock:
            if not self._users:
                self._there = await self._stack.enter_async_context(self._opening())
            self._users += 1
        try:
            yield self._there
        finally:
            async with self._lock:
                self._users -= 1
                if not self._users:
                    await self._stack.aclose()


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, _Shared[Any]]] = WeakKeyDictionary()


def _one_for_all(
    name: object, opening: Callable[[], AbstractAsyncContextManager[_T]]
) -> AbstractAsyncContextManager[_T]:
    of_loop = _shared.setdefault(asyncio.get_running_loop(), {})
    return of_loop.setdefault(name, _Shared(opening)).used()


@asynccontextmanager
async def opened(wavespeed: str, output: str) -> AsyncIterator[Runtime]:
    """The Runtime for a block and an output. Errors that leave it are safe to log and to store.

    Args:
        wavespeed: name of a `WaveSpeed` block.
        output: block, ``s3://bucket/prefix`` or directory.

    Raises:
        ConfigurationError: one of them does not exist or cannot be used.
    """
    with safe_errors():
        async with _one_for_all((wavespeed, output), partial(_open_runtime, wavespeed, output)) as runtime:
            yield runtime


@asynccontextmanager
async def _open_runtime(wavespeed: str, output: str) -> AsyncIterator[Runtime]:
    store = await open_output(output)
    block = await load_wavespeed(wavespeed)
    async with (
        _one_for_all(wavespeed, partial(_open_allowance, block)) as allowance,
        _one_for_all((wavespeed, Listener), partial(Listener.open, block)) as listener,
        block.get_client() as client,
    ):
        yield Runtime(client, store, allowance, listener)


@asynccontextmanager
async def _open_allowance(block: WaveSpeed) -> AsyncIterator[Allowance]:
    allowance = await Allowance.open(block)
    try:
        yield allowance
    finally:
        await allowance.close()


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
        message = f"unexpected {type(error).__name__}: {redact(error)}"
        raise RestyleError(message).with_traceback(error.__traceback__) from None


def note_task_runs() -> None:
    """From here on, collect the ids of the task runs of this asyncio task, for ``run_info``."""
    _task_runs.set([])


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
    noted, batch = _task_runs.get(), batch_under_way.get()
    task_runs = [] if noted is None else noted
    if (task_run := runtime.task_run.id) and task_run not in task_runs:
        task_runs.append(task_run)
    return RunInfo(
        flow=runtime.flow_run.flow_name,
        # a shard works for the run that began it
        flow_run_id=batch.run.flow_run_id if batch else runtime.flow_run.id,
        flow_run_name=batch.run.flow_run_name if batch else runtime.flow_run.name,
        deployment=_deployment_of(runtime.flow_run.id),
        task_run_ids=list(task_runs),
        prefect_version=prefect.__version__,
        package_version=package_version(),
        git_commit=_git_commit(),
    )


@lru_cache(maxsize=100)
def _deployment_of(flow_run_id: str | None) -> str | None:
    """The run's deployment: Prefect's runtime asks the server each time, and holds up the event loop."""
    name: str | None = runtime.deployment.name
    return name


@cache
def _git_commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():  # installed, or in somebody else's repository
        return None
    told = subprocess.run([git, "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)  # noqa: S603
    return told.stdout.strip() or None
