"""Listening for what webhooks tell: `restyle receiver` puts them, sealed, into Prefect's event feed.

Nothing here is needed. Where the feed cannot be listened to, that is told once and runs poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.logging import get_logger
from pydantic import SecretStr

from prefect_wavespeed.api.webhooks import ENDED, WebhookError, unseal
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.errors import redact
from prefect_wavespeed.retry import backoff
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox

_PATIENCE = 10.0  # seconds that a submission waits for the subscription
_FAREWELL = 2.0  # seconds that closing it may take


class Listener:
    """Listens for all runs of this event loop that use a `WaveSpeed` block, from the first submission on.

    Attributes:
        inbox: what was told.
    """

    def __init__(self, block: WaveSpeed) -> None:
        self.inbox = WebhookInbox()
        self._block = block
        self._listening: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()  # whether it listens by now, or has found that it cannot
        self._told: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, block: WaveSpeed) -> AsyncIterator[Listener]:
        """One that ends with the context."""
        listener = cls(block)
        try:
            yield listener
        finally:
            if task := listener._listening:
                task.cancel()
                await asyncio.wait({task}, timeout=_FAREWELL)

    async def webhook(self, *, wait: bool) -> str | None:
        """The URL to submit with, once what it brings is listened for; None where the block has none.

        Args:
            wait: whether the run waits for the prediction.
        """
        if url := self._block.webhook(wait=wait):
            if not self._listening:
                self._listening = asyncio.create_task(self._listen())
            if not self._tried.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._tried.wait(), _PATIENCE)
        return url

    async def _listen(self) -> None:
        secret: SecretStr | None = None
        waits = backoff(first=1.0, most=30.0)
        while True:
            try:
                secret = secret or await self._secret()
                async with _subscription() as events:
                    self.inbox.start()
                    self._tried.set()
                    self._told.discard("away")
                    waits = backoff(first=1.0, most=30.0)
                    async for event in events:
                        self._tell(event, secret)
                problem = "it was closed"
            except Exception as error:
                problem = redact(error) or type(error).__name__
            self.inbox.stop()
            self._tried.set()
            self._warn("away", f"webhooks: Prefect's event feed cannot be listened to ({problem}): polling")
            await asyncio.sleep(next(waits))

    async def _secret(self) -> SecretStr:
        async with self._block.get_client() as client:
            return await client.webhook_secret()

    def _tell(self, event: Event, secret: SecretStr) -> None:
        # quick: the server drops what a subscriber is 256 events late to read
        try:
            prediction = unseal(str(event.payload.get("sealed")), secret)
        except WebhookError as error:
            self._warn("unsealed", f"webhooks: an event {ENDED} in Prefect is left alone: {error}")
        else:
            self.inbox.deliver(prediction)

    def _warn(self, kind: str, message: str) -> None:
        """Say it, once a kind."""
        if kind not in self._told:
            self._told.add(kind)
            get_logger("restyle").warning("%s", message)


@asynccontextmanager
async def _subscription() -> AsyncIterator[AsyncIterator[Event]]:
    """What happens from now on, and what did in the last minute. It ends with the connection."""
    subscriber = get_events_subscriber(
        EventFilter(event=EventNameFilter(name=[ENDED])), reconnection_attempts=0
    )
    async with AsyncExitStack() as stack:
        stack.push_async_exit(subscriber)  # also when it connects and is then refused
        yield await subscriber.__aenter__()
