"""The task that restyles an image from start to end, to be mapped over a list in any flow."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import copy
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect._internal.compatibility.async_dispatch import is_in_async_context
from prefect.runtime import task_run
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.blocks.names import DEFAULT_OUTPUT, WAVESPEED_BLOCK
from prefect_wavespeed.blocks.parameters import OutputParam, WaveSpeedParam
from prefect_wavespeed.job import NsfwPolicy, NsfwRules, Restyled, UncheckedPolicy
from prefect_wavespeed.steps.run_job import make_job, run_job
from prefect_wavespeed.tasks._options import TASK_OPTIONS
from prefect_wavespeed.tasks.context import collecting_task_runs
from prefect_wavespeed.tasks.runtime import open_runtime
from prefect_wavespeed.urls import image_name

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT = ReduxParams()


class DispatchedTask(Task[P, R]):
    """A task with an async body that sync code can call as well; `submit` and `map` run it in threads.

    All threads run it in the event loop that Prefect keeps for sync code: they share a client and its limits.

    Args:
        fn: the async function.
        options: those of ``@task``.

    Attributes:
        aio: the async task, to be awaited.
    """

    def __init__(self, fn: Callable[P, Coroutine[Any, Any, R]], **options: Any) -> None:
        @wraps(fn)
        def in_sync(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast("R", run_coro_as_sync(fn(*args, **kwargs)))

        super().__init__(in_sync, **options)
        self.aio = Task(fn, **options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]  # as `async_dispatch` does
        """Run it: the result; in async code a coroutine that returns it."""
        run: Any = self.aio if is_in_async_context() else super().__call__
        return run(*args, **kwargs)

    def with_options(self, **options: Any) -> DispatchedTask[P, R]:
        """The same task with other options, those of `prefect.Task.with_options`."""
        both: Any = copy(self)
        both.__dict__ |= vars(super().with_options(**options))
        both.aio = self.aio.with_options(**options)
        return cast("DispatchedTask[P, R]", both)


def _run_name() -> str:
    return f"restyle {image_name(str(task_run.parameters.get('image', '')))}"


def _dispatched(fn: Callable[P, Coroutine[Any, Any, R]]) -> DispatchedTask[P, R]:
    return DispatchedTask(fn, task_run_name=_run_name, **TASK_OPTIONS)


@_dispatched
async def restyle(
    image: str,
    params: ReduxParams = _DEFAULT,
    variant: int = 0,
    wavespeed: WaveSpeedParam = WAVESPEED_BLOCK,
    output: OutputParam = DEFAULT_OUTPUT,
    max_cost_usd: float | None = None,
    nsfw: NsfwPolicy = "keep",
    nsfw_unchecked: UncheckedPolicy = "quarantine",
    retry_failed: bool = False,
) -> Restyled:
    """Restyle an image in one task run: the job that the flow `restyle_image` makes of it, billed once.

    ``restyle.map(images, output=…)`` restyles a list. For hundreds of images use `restyle_batch`, which keeps
    a cap for all of them together and writes a report.

    Args:
        image: the source picture: an https URL, ``s3://bucket/key``, or a path on this machine.
        params: how to restyle it.
        variant: 0, 1, 2 and so on: each makes another picture of the same source, with its own seed.
        wavespeed: a `WaveSpeed` block, or the name of a saved one.
        output: where the pictures go: a storage block, the name of a saved one, ``s3://bucket/prefix``, or a
            directory.
        max_cost_usd: refuse if the price of this image is higher, in USD.
        nsfw: what to do with outputs that WaveSpeedAI flags.
        nsfw_unchecked: the same for outputs that were not checked; they are kept if flagged ones are.
        retry_failed: submit it again if it has failed for good before.

    Returns:
        What is stored, where, and what it cost.

    Raises:
        RestyleError: one of `prefect_wavespeed.errors`.
    """
    rules = NsfwRules(flagged=nsfw, unchecked=nsfw_unchecked)
    async with open_runtime(wavespeed, output) as runtime:
        job = await make_job(image, params, variant, runtime.store)
        with collecting_task_runs():
            return await run_job(
                job,
                partial(runtime.submit, max_cost_usd=max_cost_usd, nsfw=rules, retry_failed=retry_failed),
                runtime.poll,
                partial(runtime.download, nsfw=rules),
                runtime.slot,
            )


arestyle = restyle.aio
"""`restyle` for async code: always a coroutine."""
