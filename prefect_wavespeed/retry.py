"""The one way to try again what failed for a reason that may pass."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from prefect_wavespeed.errors import worth_retrying

_P = ParamSpec("_P")
_T = TypeVar("_T")

_instant: ContextVar[bool] = ContextVar("retry_instantly", default=False)


LONGEST_WAIT = 120.0
"""Seconds that an error may ask to wait (``retry_after``) for another try to be worth it."""

_longest_wait: ContextVar[float] = ContextVar("longest_wait", default=LONGEST_WAIT)


async def retry(
    call: Callable[[], Awaitable[_T]],
    *,
    tries: int,
    when: Callable[[BaseException], bool] = worth_retrying,
    first: float = 0.5,
    most: float = 10.0,
) -> _T:
    """Call until it succeeds, fails in a way that a further try cannot change, or all tries are used up.

    Between two tries it waits as ``backoff`` says, or longer where the error asks for that (``retry_after``).
    An error that asks for more than ``LONGEST_WAIT``, or less in a context of ``short_waits``, is raised at
    once, and its message says for how much.

    Args:
        call: what to try. Never a submission: only the ledger may decide to send one again.
        tries: calls in all, the first one included.
        when: whether an error is worth another try; by default what ``worth_retrying`` says.
        first: seconds that the first wait takes at most.
        most: seconds that any later wait takes at most, unless the error asks for more.

    Raises:
        BaseException: the error of the last call, as it was raised.
    """
    waits = backoff(first, most)
    for _ in range(tries - 1):
        try:
            return await call()
        except BaseException as error:
            if _asked(error) > _longest_wait.get() or not when(error):
                raise
            seconds = max(next(waits), _asked(error))
        await _sleep(seconds)
    return await call()


def retrying(
    step: Callable[_P, Awaitable[_T]],
    *,
    tries: int,
    when: Callable[[BaseException], bool] = worth_retrying,
    first: float = 0.5,
    most: float = 10.0,
) -> Callable[_P, Awaitable[_T]]:
    """Return ``step`` as a function that is tried again; the arguments are those of ``retry``."""

    async def tried(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await retry(lambda: step(*args, **kwargs), tries=tries, when=when, first=first, most=most)

    return tried


def backoff(first: float = 0.5, most: float = 10.0) -> Iterator[float]:
    """Yield seconds to wait before each further look at something: doubling, with jitter, without end.

    Each wait lies between half an interval and the whole of it; intervals double from ``first`` to ``most``.
    """
    interval = first
    while True:
        yield interval * random.uniform(0.5, 1.0)
        interval = min(interval * 2, most)


@contextmanager
def short_waits(seconds: float) -> Iterator[None]:
    """Let ``retry`` wait for no longer than this where an error asks for that, in this context."""
    token = _longest_wait.set(seconds)
    try:
        yield
    finally:
        _longest_wait.reset(token)


@contextmanager
def instant_retries() -> Iterator[None]:
    """Let ``retry`` go on without waiting, for tests: in this context and in the tasks started in it."""
    token = _instant.set(True)
    try:
        yield
    finally:
        _instant.reset(token)


def _asked(error: BaseException | None) -> float:
    """Seconds to wait, as the error says."""
    return getattr(error, "retry_after", None) or 0.0


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(0 if _instant.get() else seconds)
