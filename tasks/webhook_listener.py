"""Listens for webhooks, which `restyle receiver` forwards, sealed, as Prefect events.

Nothing depends on it. Where Prefect's event feed cannot be read, one warning is logged and runs poll.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.logging import get_logger
from pydantic import SecretStr

from prefect_wavespeed.api.webhooks import ENDED, WebhookError, unseal
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import RestyleError, redact
from prefect_wavespeed.retry import backoff
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox

_SUBSCRIBE_SECONDS = 10.0  # that a submission waits for the subscription
_CLOSE_SECONDS = 2.0
_SECRET_SECONDS = 60.0  # between two looks at whether the secret has changed


class WebhookListener:
    """Listens for all runs of an event loop that use a `WaveSpeed` block, from the first submission on.

    Attributes:
        inbox: what the webhooks said.
    """

    def __init__(self, block: WaveSpeed) -> None:
        self.inbox = WebhookInbox()
        self._block = block
        self._listening: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()  # set once it listens, or has found that it cannot
        self._warned: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, block: WaveSpeed) -> AsyncIterator[WebhookListener]:
        """A listener for a block, until the end of the context."""
        listener = cls(block)
        try:
            yield listener
        finally:
            if task := listener._listening:
                task.cancel()
                await asyncio.wait({task}, timeout=_CLOSE_SECONDS)

    async def webhook_url(self, *, wait: bool) -> str | None:
        """The URL to submit with, once its webhooks are listened for; None if the block has none.

        Args:
            wait: whether the run waits for the prediction.
        """
        if url := self._block.webhook_url_for(wait=wait):
            if not self._listening:
                self._listening = asyncio.create_task(self._listen())
            if not self._attempted.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._attempted.wait(), _SUBSCRIBE_SECONDS)
        return url

    async def _listen(self) -> None:
        secret: SecretStr | None = None
        asked_at = 0.0
        delays = backoff(first=1.0, most=30.0)
        while True:
            try:
                if secret is None:
                    secret, asked_at = await self._fetch_secret(), time.monotonic()
                async with _subscription() as events:
                    self.inbox.start()
                    self._attempted.set()
                    self._warned.discard("feed")
                    delays = backoff(first=1.0, most=30.0)
                    async for event in events:
                        problem = self._undelivered(event, secret)
                        if problem and time.monotonic() - asked_at >= _SECRET_SECONDS:  # it may have changed
                            asked_at, secret = time.monotonic(), await self._newer(secret)
                            problem = self._undelivered(event, secret)
                        if problem:
                            self._warn("event", f"webhooks: a Prefect event {ENDED} is ignored: {problem}")
                problem = "the connection was closed"
            except Exception as error:
                problem = redact(error) or type(error).__name__
            self.inbox.stop()
            self._attempted.set()
            self._warn("feed", f"webhooks: Prefect's event feed cannot be read, so runs poll: {problem}")
            await asyncio.sleep(next(delays))

    async def _fetch_secret(self) -> SecretStr:
        async with self._block.get_client() as client:
            return await client.webhook_secret()

    async def _newer(self, secret: SecretStr) -> SecretStr:
        with suppress(RestyleError, TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_SECONDS):  # events wait meanwhile
                return await self._fetch_secret()
        return secret

    def _undelivered(self, event: Event, secret: SecretStr) -> str | None:
        """Deliver an event; return why that cannot be done, if so."""
        # must be quick: the server drops events for a subscriber that is 256 behind
        try:
            notice = unseal(str(event.payload.get("sealed")), secret)
        except WebhookError as error:
            return str(error)
        self.inbox.deliver(notice.prediction, notice.job_key)
        return None

    def _warn(self, kind: str, message: str) -> None:
        """Log a warning, once for each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            get_logger("restyle").warning("%s", message)


@asynccontextmanager
async def _subscription() -> AsyncIterator[AsyncIterator[Event]]:
    """Events from a minute ago on, until the connection ends."""
    subscriber = get_events_subscriber(
        EventFilter(event=EventNameFilter(name=[ENDED])), reconnection_attempts=0
    )
    async with AsyncExitStack() as stack:
        stack.push_async_exit(subscriber)  # also if it connects and is then refused
        yield await subscriber.__aenter__()
