"""Prefect's event API: an event is accepted, or the caller learns that it may not have been."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future, Task
from collections.abc import Sequence

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.events import Event

from prefect_wavespeed.deployments.prefect_errors import describe_api_error, without_credentials
from prefect_wavespeed.deployments.receiver import metrics
from prefect_wavespeed.errors import RestyleError

_BATCH = 50  # events in a POST
_POST_SECONDS = 10.0  # senders give up after 10 to 15 s
_MAX_WAITING = 50  # events, beside those under way: as many requests, and fewer than connections
_CHECK_SECONDS = 1.0  # how long the result of a check counts
_ANSWER_SECONDS = 0.2  # in which `/health` answers, whatever Prefect does
_EVENT_REJECTED = (400, 413, 422)  # statuses that a single event may have caused

_log = logging.getLogger(__name__)


class EventsNotAcceptedError(RestyleError):
    """Prefect has not accepted the events, or may not have. A retry may help.

    Attributes:
        rejected: whether the events themselves are the reason.
    """

    retryable = True
    rejected: bool = False


class PrefectApi:
    """Sends events to Prefect; those that come in while a POST is under way share the next one.

    Attributes:
        problem: why Prefect last accepted no events; None when it did accept them.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._url = str(client.api_url).rstrip("/")
        self._waiting: list[tuple[Event, Future[None]]] = []
        self._sending: Task[None] | None = None
        self._checking: Task[str | None] | None = None
        self._check_lock = asyncio.Lock()
        self._checked_at = 0.0
        self.problem: str | None = None

    async def send(self, events: Sequence[Event]) -> None:
        """Return once Prefect has accepted all of the events.

        Raises:
            EventsNotAcceptedError: it has not; some of them may have been accepted nevertheless. Or too many
                others wait.
        """
        if self._waiting and len(self._waiting) + len(events) > _MAX_WAITING:
            raise EventsNotAcceptedError("too many events wait for Prefect's API: send it again later")
        loop = asyncio.get_running_loop()
        waiting = [(event, loop.create_future()) for event in events]
        self._waiting += waiting
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_waiting())
        await asyncio.gather(*(accepted for _, accepted in waiting))

    async def check(self) -> str | None:
        """Ask whether Prefect would accept events now, at most once a second, and return `problem`."""
        async with self._check_lock:
            if time.monotonic() - self._checked_at >= _CHECK_SECONDS:
                try:
                    await self._post([])
                except EventsNotAcceptedError as error:
                    self._note(None if error.rejected else error.message)
                self._checked_at = time.monotonic()
        return self.problem

    async def known_problem(self) -> str | None:
        """What `check` returns, or what is known after a moment."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self.check())
        await asyncio.wait([self._checking], timeout=_ANSWER_SECONDS)
        return self.problem

    async def _send_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            await self._send_batch(batch)

    async def _send_batch(self, batch: list[tuple[Event, Future[None]]]) -> None:
        try:
            await self._post([event for event, _ in batch])
        except EventsNotAcceptedError as error:
            if error.rejected and len(batch) > 1:  # one bad event must not hold up the others
                half = len(batch) // 2
                await self._send_batch(batch[:half])
                await self._send_batch(batch[half:])
                return
            if error.rejected:
                _log.error("%s", error)
            else:
                self._note(error.message)
                batch, self._waiting = batch + self._waiting, []  # the others would fail the same way
            for _, accepted in batch:
                if not accepted.done():
                    accepted.set_exception(error)
            return
        for event, accepted in batch:
            metrics.EVENTS.labels(event.event).inc()
            if not accepted.done():
                accepted.set_result(None)

    async def _post(self, events: Sequence[Event]) -> None:
        try:
            body = [event.model_dump(mode="json") for event in events]
            async with asyncio.timeout(_POST_SECONDS):
                await self._client.request("POST", "/events", json=body)
        except TimeoutError:
            raise EventsNotAcceptedError(
                f"Prefect's API at {without_credentials(self._url)} did not answer within {_POST_SECONDS:g} s"
            ) from None
        except Exception as error:  # whatever it is: nothing is known to be accepted
            problem, remedy = describe_api_error(self._url, error)
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
            raise EventsNotAcceptedError(
                f"Prefect's API at {problem}: {remedy}", rejected=status in _EVENT_REJECTED
            ) from None
        self._checked_at = time.monotonic()
        self._note(None)

    def _note(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            _log.error("%s; senders are asked to retry", problem)
        elif self.problem and not problem:
            _log.warning("Prefect accepts events again")
        self.problem = problem
        metrics.PREFECT_UP.set(problem is None)
