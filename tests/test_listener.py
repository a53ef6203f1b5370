"""Listening for webhooks on the event feed of a real Prefect server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import ENDED, seal
from prefect_wavespeed.blocks.wavespeed import WaveSpeed
from prefect_wavespeed.tasks.webhook_listener import WebhookListener
from tests.support.emulator_process import Emulator
from tests.support.prefect_server import PrefectServer
from tests.support.raw_server import RawServer, answer

KEY = "key-that-nobody-may-see"
HOOK = "https://hooks.example.com/wavespeed?token=s3cret"


@pytest.fixture
def server(prefect: PrefectServer) -> Iterator[PrefectServer]:
    with prefect.used_here():
        yield prefect


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What was logged to `prefect.restyle`."""
    logged: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: logged.append(record.getMessage()))
    logger = logging.getLogger("prefect.restyle")
    logger.addHandler(handler)
    yield lambda: logged
    logger.removeHandler(handler)


def block(emulator: Emulator | RawServer, webhook_url: str | None = HOOK) -> WaveSpeed:
    return WaveSpeed(
        api_key=Secret(value=SecretStr(KEY)),
        base_url=emulator.url,
        webhook_url=SecretStr(webhook_url) if webhook_url else None,
        timeout=2,
    )


async def secret_of(emulator: Emulator) -> SecretStr:
    async with block(emulator).get_client() as client:
        return await client.webhook_secret()


def put(server: PrefectServer, name: str, sealed: object) -> None:
    """Emit an event as the receiver does, or a forger."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": ENDED,
        "resource": {"prefect.resource.id": f"wavespeed.prediction.{name}", "wavespeed.waited": "true"},
        "payload": {"prediction_id": name, "status": "completed", "sealed": sealed},
    }
    server.call("POST", "/events", [event])


def completed(name: str) -> Prediction:
    return Prediction(id=name, status="completed", outputs=[f"https://cdn.example.com/{name}.jpeg"])


async def until(true: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.05)


# before the test of forged events: for a minute, a feed begins with those of earlier tests
async def test_a_secret_that_changes_meanwhile_is_asked_for_again(
    server: PrefectServer, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.tasks.webhook_listener._SECRET_SECONDS", 0.0)
    secrets = [answer({"secret": secret}) for secret in ("whsec_old", "whsec_new")]
    async with RawServer(*secrets) as api, WebhookListener.open(block(api)) as listener:
        await listener.webhook_url(wait=True)
        with listener.inbox.watch("n1") as sent:
            put(server, "n1", seal(completed("n1"), "whsec_new"))
            async with asyncio.timeout(30):
                await sent.wait(30)
            assert sent.read()
    assert not warnings()


async def test_events_of_the_receiver_are_delivered_and_forged_ones_are_not(
    server: PrefectServer, emulator: Emulator, warnings: Callable[[], list[str]]
) -> None:
    secret, before = await secret_of(emulator), asyncio.all_tasks()
    forged: list[object] = ["", "nonsense", None, 7, {"id": "f0"}, seal(completed("f1"), "whsec_another")]
    async with WebhookListener.open(block(emulator)) as listener:
        assert await listener.webhook_url(wait=True) == HOOK
        assert await listener.webhook_url(wait=False) == f"{HOOK}&wait=no"
        assert listener.inbox.listening
        with listener.inbox.watch("p1") as sent, listener.inbox.watch("f1") as forged_notice:
            for sealed in forged:
                put(server, "f1", sealed)
            # what counts is the sealed id
            put(server, "f1", seal(completed("p1"), secret))
            async with asyncio.timeout(30):
                await sent.wait(30)
            prediction = sent.read()
            assert prediction
            assert prediction.outputs == ["https://cdn.example.com/p1.jpeg"]
            assert forged_notice.read() is None
        closing = time.monotonic()
    assert time.monotonic() - closing < 2
    assert asyncio.all_tasks() == before
    (warning,) = warnings()
    assert "is ignored" in warning


async def test_a_block_without_a_webhook_url_subscribes_to_nothing(
    server: PrefectServer, emulator: Emulator
) -> None:
    async with WebhookListener.open(block(emulator, None)) as listener:
        assert await listener.webhook_url(wait=True) is None
        assert not listener.inbox.listening


async def test_without_a_feed_one_warning_is_logged_and_runs_poll(
    emulator: Emulator, warnings: Callable[[], list[str]]
) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        async with WebhookListener.open(block(emulator)) as listener:
            assert await listener.webhook_url(wait=True) == HOOK
            assert not listener.inbox.listening
            await asyncio.sleep(3)  # it retries
    (warning,) = warnings()
    assert "cannot be read" in warning
    assert "so runs poll" in warning


async def test_without_the_webhook_secret_runs_poll(
    server: PrefectServer, emulator: Emulator, warnings: Callable[[], list[str]]
) -> None:
    away = block(emulator).model_copy(update={"base_url": "http://127.0.0.1:9"})
    async with WebhookListener.open(away) as listener:
        await listener.webhook_url(wait=True)
        assert not listener.inbox.listening
    assert len(warnings()) == 1


async def test_a_broken_connection_is_opened_again_and_meanwhile_runs_poll(
    server: PrefectServer, emulator: Emulator, warnings: Callable[[], list[str]]
) -> None:
    secret = await secret_of(emulator)
    async with _between(server) as (url, cut):
        with temporary_settings({PREFECT_API_URL: url}):
            async with WebhookListener.open(block(emulator)) as listener:
                await listener.webhook_url(wait=True)
                assert listener.inbox.listening
                with listener.inbox.watch("p2") as sent:
                    cut()
                    await until(lambda: not listener.inbox.listening)
                    await until(lambda: listener.inbox.listening)
                    put(server, "p2", seal(completed("p2"), secret))
                    async with asyncio.timeout(30):
                        await sent.wait(30)
                    assert sent.read()
    assert [warning for warning in warnings() if "cannot be read" in warning] == warnings()[:1]


@asynccontextmanager
async def _between(server: PrefectServer) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A URL of the server behind a proxy, and a function that cuts all connections."""
    there = urlsplit(server.url)
    open_ones: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(there.hostname, there.port)
        both: set[Any] = {writer, far_writer}
        open_ones.update(both)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        open_ones.difference_update(both)

    def cut() -> None:
        for writer in open_ones:
            writer.transport.abort()

    here = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        port = here.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/api", cut
    finally:
        here.close()
        cut()
