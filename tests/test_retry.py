from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from prefect_wavespeed.errors import (
    AmbiguousSubmissionError,
    NotFoundError,
    PredictionTimeoutError,
    RateLimitedError,
    RestyleError,
    UnavailableError,
)
from prefect_wavespeed.retry import backoff, instant_retries, retry, retrying


@pytest.fixture(autouse=True)
def _instantly() -> Iterator[None]:
    with instant_retries():
        yield


class _Flaky:
    """Fails with each of the errors in turn, then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, answer: str = "answer") -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return answer


async def test_no_error_no_second_call() -> None:
    flaky = _Flaky()
    assert await retry(flaky, tries=3) == "answer"
    assert flaky.calls == 1


async def test_an_error_that_may_pass_is_tried_again() -> None:
    flaky = _Flaky(UnavailableError("away"), RateLimitedError("slow down"))
    assert await retry(flaky, tries=3) == "answer"
    assert flaky.calls == 3


@pytest.mark.parametrize("error", [NotFoundError("no"), PredictionTimeoutError("later"), KeyError("defect")])
async def test_an_error_that_trying_cannot_change_is_raised_at_once(error: Exception) -> None:
    flaky = _Flaky(error)
    with pytest.raises(type(error)) as caught:
        await retry(flaky, tries=3)
    assert caught.value is error
    assert flaky.calls == 1


async def test_the_last_error_is_raised_as_it_was() -> None:
    errors = [UnavailableError(f"away {n}") for n in range(3)]
    flaky = _Flaky(*errors)
    with pytest.raises(UnavailableError) as caught:
        await retry(flaky, tries=3)
    assert caught.value is errors[-1]
    assert flaky.calls == 3


async def test_an_error_keeps_what_it_was_raised_from() -> None:
    async def submit() -> None:
        try:
            raise AmbiguousSubmissionError("sent, and no answer")
        except AmbiguousSubmissionError:
            raise NotFoundError("no") from None

    with pytest.raises(NotFoundError) as caught:
        await retry(submit, tries=2)
    assert isinstance(caught.value.__context__, AmbiguousSubmissionError)


async def test_the_caller_may_say_what_is_worth_another_try() -> None:
    flaky = _Flaky(KeyError("once"))
    assert await retry(flaky, tries=2, when=lambda error: isinstance(error, KeyError)) == "answer"


async def test_a_cancellation_is_never_tried_again() -> None:
    flaky = _Flaky(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await retry(flaky, tries=3, when=lambda error: isinstance(error, RestyleError))
    assert flaky.calls == 1


async def test_a_step_that_retries_takes_the_same_arguments() -> None:
    flaky = _Flaky(UnavailableError("away"))
    assert await retrying(flaky, tries=2)(answer="given") == "given"


async def test_the_wait_is_what_the_error_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("prefect_wavespeed.retry._sleep", sleep)
    limited = RateLimitedError("slow down", retry_after=30.0)
    await retry(_Flaky(limited, UnavailableError("away"), RateLimitedError("slow", retry_after=0.0)), tries=4)
    assert slept[0] == 30
    assert 0.5 <= slept[1] <= 1
    assert 1 <= slept[2] <= 2


async def test_an_error_that_asks_to_wait_for_a_day_is_raised_at_once() -> None:
    for error in (RateLimitedError("slow", retry_after=86_400.0), UnavailableError("away", retry_after=1e9)):
        with pytest.raises(type(error)):
            await asyncio.wait_for(retry(_Flaky(error), tries=3), 1)


async def test_waits_are_skipped_in_tasks_of_the_context_too() -> None:
    began = time.monotonic()
    flaky = _Flaky(RateLimitedError("slow down", retry_after=60.0))
    assert await asyncio.create_task(retry(flaky, tries=2)) == "answer"
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("first", [0.2, 1.0])
def test_a_backoff_doubles_up_to_its_limit(first: float) -> None:
    waits = backoff(first, most=3.0)
    for interval in [min(first * 2**n, 3.0) for n in range(8)]:
        assert interval / 2 <= next(waits) <= interval
