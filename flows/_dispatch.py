"""Flows that sync and async code call alike, by the convention of Prefect's own packages.

In async code a call returns a coroutine, to be awaited; in sync code it returns the result. ``aio`` always
returns a coroutine, and its name has an ``a`` in front. There is one body, which is async: sync code runs it
in the event loop that Prefect keeps for that. Deployments run the async flow.
"""

from __future__ import annotations

from collections.abc import Coroutine
from copy import copy
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from prefect import Flow
from prefect._internal.compatibility.async_dispatch import is_in_async_context
from prefect.utilities.asyncutils import run_coro_as_sync

P = ParamSpec("P")
R = TypeVar("R")


class DispatchedFlow(Flow[P, R]):
    """An async flow that sync code can call as well."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...

    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it.

        Returns:
            The result; in async code a coroutine that returns it.
        """
        run: Any = self.aio(*args, **kwargs)
        return run if is_in_async_context() else run_coro_as_sync(run)

    @property
    def aio(self) -> Flow[P, Coroutine[Any, Any, R]]:
        """The flow as Prefect knows it, to be awaited."""
        plain: Any = copy(self)
        plain.__class__ = Flow
        return cast("Flow[P, Coroutine[Any, Any, R]]", plain)

    @property
    def once(self) -> Flow[P, Coroutine[Any, Any, R]]:
        """``aio`` without retries. `with_options` would work out the parameters' schema anew."""
        plain = self.aio
        plain.retries = 0
        return plain

    def with_options(self, **options: Any) -> DispatchedFlow[P, R]:
        """The same flow with other options, those of `prefect.Flow.with_options`."""
        return dispatched_flow(self.aio.with_options(**options))


def dispatched_flow(flow: Flow[P, Coroutine[Any, Any, R]]) -> DispatchedFlow[P, R]:
    """Let sync code call an async flow: a decorator above ``@flow``."""
    both: Any = copy(flow)
    both.__class__ = DispatchedFlow
    return cast("DispatchedFlow[P, R]", both)
