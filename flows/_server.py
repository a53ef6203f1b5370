"""What a batch does while Prefect's server does not answer.

The engine needs no Prefect: what is in flight goes on, and is stored. But a run that nobody can see or cancel
should not spend more, and other runs may have its slots. So once the server has been away for as long as
Prefect's own client keeps trying, nothing more is submitted, and the run ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import SettingsContext, get_settings_context
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings

from prefect_wavespeed.batch.gate import Gate
from prefect_wavespeed.errors import PrefectUnavailableError, redact
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.flows.progress import announce

_EVERY = 2.0  # seconds between two looks
_LONGEST = 60.0  # seconds that a run goes on without a server
_BUSY = 600.0  # seconds that it goes on with one that takes connections, and does not answer: it may be busy
_SURE = 3  # looks in vain in a row, until that is believed
_TIMEOUT = 5.0  # seconds for an answer


@asynccontextmanager
async def watching(gate: Gate) -> AsyncIterator[None]:
    """Stop submitting if Prefect's server is away for long. To be used in the run's own asyncio task."""
    async with get_client() as client:
        watch = _Watch(gate, client)
        looking = asyncio.create_task(watch.look_again_and_again())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        await watch.look_until_known()  # a run that cannot be recorded has not succeeded
    if isinstance(gate.stopped, PrefectUnavailableError):
        _give_up_at_once()


class _Watch:
    """What is known of Prefect's server.

    Args:
        gate: closed once the server has been away for too long.
        client: tries only once.
    """

    def __init__(self, gate: Gate, client: PrefectClient) -> None:
        self._gate = gate
        self._client = client
        # as long as Prefect's client keeps trying
        self._patience = min(2.0 ** (1 + PREFECT_CLIENT_MAX_RETRIES.value()) - 2, _LONGEST)
        url = get_current_settings().api.url
        self._server = f"Prefect's server at {redact(url)}" if url else "Prefect's temporary server"
        self._vain_looks = 0  # in a row
        self._is_said = False
        self._answered_at = time.monotonic()

    async def look_again_and_again(self) -> None:
        """Look until this is cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.look()

    async def look_until_known(self) -> None:
        """Look until the server answers or is given up."""
        while not await self.look():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(_EVERY)

    async def look(self) -> bool:
        """Look whether the server answers; False if it has to be looked at again."""
        state = await self._state()
        silent = time.monotonic() - self._answered_at
        if state == "answers":
            if self._is_said:
                _say(f"{self._server} answers again")
            self._vain_looks, self._answered_at, self._is_said = 0, time.monotonic(), False
            return True
        self._vain_looks += 1
        left = (self._patience if state == "gone" else _BUSY) - silent
        # a look or two may be in vain because of this machine, and a busy server is no news for a while
        if not self._is_said and (self._vain_looks >= _SURE if state == "gone" else silent > 2 * _LONGEST):
            self._is_said = True
            until = f"; unless it does in {left:.0f} s, nothing more is submitted" if left > 0 else ""
            _say(f"{self._server} does not answer: what is in flight goes on{until}")
        if self._vain_looks < _SURE or left > 0:
            return False
        self._gate.stopped = self._gate.stopped or PrefectUnavailableError(
            f"{self._server} does not answer: once it does, run the same again; nothing is billed twice"
        )
        return True

    async def _state(self) -> Literal["answers", "busy", "gone"]:
        with _trying_once():
            try:
                async with asyncio.timeout(_TIMEOUT):
                    error = await self._client.api_healthcheck()
            except TimeoutError:
                return "busy"
        is_refusal = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
        if error is None or is_refusal:
            return "answers"
        return "gone" if isinstance(error, httpx.ConnectError) else "busy"


def _say(line: str) -> None:
    run_log().warning("%s", line)
    announce.get()(line)


def _give_up_at_once() -> None:
    """Let Prefect's client try only once for the rest of this run: it would be in vain."""
    _trying_once().__enter__()


def _trying_once() -> SettingsContext:
    """Prefect's settings as they are, but its client tries only once.

    Not `temporary_settings`: it reads all of them anew, which takes the processor as long as three images.
    """
    context = get_settings_context()
    client = context.settings.client.model_copy(update={"max_retries": 0})
    settings = context.settings.model_copy(update={"client": client})
    return SettingsContext(profile=context.profile, settings=settings)
