"""Prefect's event API, as a place where events are put and kept, or not taken."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future, Task, create_task, gather, get_running_loop, timeout
from collections.abc import Sequence

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.events import Event

from prefect_wavespeed.deployments.receiver import metrics
from prefect_wavespeed.errors import RestyleError, redact

_BATCH = 100  # events a POST
_SECONDS = 10.0  # for a POST: senders give up after 10 to 15 s
_LOOK_SECONDS = 1.0  # how long what was seen stays true
_REJECTED = (400, 413, 422)  # what one event may have brought upon all of its POST

_log = logging.getLogger(__name__)


class NotTakenError(RestyleError):
    """Prefect has not taken the events, or not surely. The same again may help.

    Attributes:
        rejected: whether it is because of the events themselves.
    """

    retryable = True
    rejected: bool = False


class PrefectApi:
    """Puts events to Prefect; those that come while one POST is under way share the next.

    Attributes:
        trouble: why Prefect did not take events when last asked; None when it did.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        url = client.api_url
        self._where = f"{url.scheme}://{url.netloc.decode().rpartition('@')[2]}{url.path}".rstrip("/")
        self._waiting: list[tuple[Event, Future[None]]] = []
        self._sending: Task[None] | None = None
        self._looking = asyncio.Lock()
        self._looked = 0.0
        self.trouble: str | None = None

    async def put(self, events: Sequence[Event]) -> None:
        """Return once Prefect has taken all of them.

        Raises:
            NotTakenError: it has not; some of them may have been taken nevertheless.
        """
        waiting = [(event, get_running_loop().create_future()) for event in events]
        self._waiting += waiting
        if self._sending is None or self._sending.done():
            self._sending = create_task(self._send())
        await gather(*(taken for _, taken in waiting))

    async def look(self) -> str | None:
        """Ask whether Prefect would take events now, at most once a second; `trouble` is the answer."""
        async with self._looking:
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                try:
                    await self._post([])
                except NotTakenError as error:
                    self._note(None if error.rejected else error.message)
                self._looked = time.monotonic()
        return self.trouble

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            await self._deliver(batch)

    async def _deliver(self, batch: list[tuple[Event, Future[None]]]) -> None:
        try:
            await self._post([event for event, _ in batch])
        except NotTakenError as error:
            if error.rejected and len(batch) > 1:  # one bad event must not hold up the others
                half = len(batch) // 2
                await self._deliver(batch[:half])
                await self._deliver(batch[half:])
                return
            if error.rejected:
                _log.error("%s", error)
            else:
                self._note(error.message)
                batch, self._waiting = batch + self._waiting, []  # the others would wait for the same
            for _, taken in batch:
                if not taken.done():
                    taken.set_exception(error)
            return
        for event, taken in batch:
            metrics.EVENTS.labels(event.event).inc()
            if not taken.done():
                taken.set_result(None)

    async def _post(self, events: Sequence[Event]) -> None:
        try:
            body = [event.model_dump(mode="json") for event in events]
            async with timeout(_SECONDS):
                await self._client.request("POST", "/events", json=body)
        except TimeoutError:
            raise NotTakenError(f"Prefect's API at {self._where} did not answer in {_SECONDS:g} s") from None
        except httpx.HTTPStatusError as error:
            raise _refusal(self._where, error.response.status_code) from None
        except Exception as error:  # whatever it is, nothing is known to be taken
            raise NotTakenError(
                f"Prefect's API at {self._where} cannot be reached: {type(error).__name__}: {redact(error)}"
            ) from None
        self._note(None)

    def _note(self, trouble: str | None) -> None:
        if trouble and trouble != self.trouble:
            _log.error("%s; senders are told to try again", trouble)
        elif self.trouble and not trouble:
            _log.warning("Prefect takes events again")
        self.trouble = trouble
        metrics.PREFECT_UP.set(trouble is None)


def _refusal(where: str, status: int) -> NotTakenError:
    told = f"Prefect's API at {where} answered {status}"
    if status in (401, 403):
        told += ": set PREFECT_API_AUTH_STRING or, for Cloud, PREFECT_API_KEY"
    elif status == 404:
        told += ": PREFECT_API_URL is not the URL of a Prefect API"
    return NotTakenError(told, rejected=status in _REJECTED)
