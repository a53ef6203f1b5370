"""Webhooks of the emulator, delivered to the steps of one job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from prefect_wavespeed.api.client import WaveSpeedClient
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import seal, unseal, verify_webhook
from prefect_wavespeed.errors import PredictionFailedError
from prefect_wavespeed.steps.webhook_inbox import WebhookInbox
from tests.support.emulator_process import Emulator
from tests.support.engine import SMALL, restyle


@asynccontextmanager
async def webhooks(emulator: Emulator) -> AsyncIterator[dict[str, Any]]:
    """Receive webhooks, verify, seal and unseal them, and deliver them; yields what to restyle with."""
    inbox = WebhookInbox()
    inbox.start()
    async with WaveSpeedClient("test-key", emulator.url) as client:
        secret = await client.webhook_secret()

    async def take(request: web.Request) -> web.Response:
        prediction = verify_webhook(request.headers, await request.read(), secret)
        inbox.deliver(unseal(seal(prediction, secret), secret).prediction)
        return web.Response()

    app = web.Application(client_max_size=1 << 25)
    app.router.add_post("/wavespeed", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield {"inbox": inbox, "webhook_url": f"http://{host}:{port}/wavespeed?token=s3cret"}
    finally:
        await runner.cleanup()


def results_asked(emulator: Emulator) -> int:
    asked: int = emulator.ledger()["calls"]["result"]
    return asked


async def test_a_picture_that_a_webhook_brings_is_stored_without_asking(
    emulator: Emulator, tmp_path: Path
) -> None:
    async with webhooks(emulator) as terms:
        restyled = await restyle(emulator.url, str(tmp_path), **terms)
    assert [output.width for output in restyled.outputs] == [256]
    assert emulator.ledger()["billed"] == 1
    assert results_asked(emulator) == 0
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert b"s3cret" not in written


async def test_a_job_with_base64_outputs_is_polled_and_does_not_make_webhooks_seem_unreliable(
    emulator: Emulator, tmp_path: Path
) -> None:
    """WaveSpeedAI refuses a webhook for it."""
    params = SMALL.model_copy(update={"enable_base64_output": True})
    async with webhooks(emulator) as terms:
        restyled = await restyle(emulator.url, str(tmp_path), params=params, **terms)
        assert [output.width for output in restyled.outputs] == [256]
        assert terms["inbox"].reliable
        polls = results_asked(emulator)
        assert polls
        await restyle(emulator.url, str(tmp_path), variant=1, **terms)
    assert results_asked(emulator) == polls
    assert [one["webhook"] is None for one in emulator.ledger()["predictions"]] == [True, False]


async def test_a_notice_of_a_failure_makes_it_be_asked_for_and_the_answer_counts(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults([{"on": "prediction", "fault": "failed", "code": 1200, "message": "moderated"}])
    async with webhooks(emulator) as terms:
        with pytest.raises(PredictionFailedError, match="moderated"):
            await restyle(emulator.url, str(tmp_path), **terms)
    assert results_asked(emulator) == 1
    assert emulator.ledger()["billed"] == 0


async def test_after_a_failure_that_may_pass_the_next_attempt_is_woken_by_a_notice_as_well(
    emulator: Emulator, tmp_path: Path
) -> None:
    emulator.faults([{"on": "prediction", "fault": "timeout"}])
    async with webhooks(emulator) as terms:
        await restyle(emulator.url, str(tmp_path), **terms)
    assert len(emulator.ledger()["predictions"]) == 2
    assert emulator.ledger()["billed"] == 1


@pytest.mark.parametrize("status", ["failed", "completed", "processing"])
async def test_a_notice_without_pictures_is_not_believed(
    emulator: Emulator, tmp_path: Path, status: str
) -> None:
    """Polling is the truth: such a notice may be late, or of another time."""
    inbox = WebhookInbox()
    inbox.start()

    async def tell_of_all() -> None:
        while True:
            for prediction in emulator.ledger()["predictions"]:
                inbox.deliver(Prediction(id=prediction["id"], status=status))
            await asyncio.sleep(0.03)

    running = asyncio.create_task(tell_of_all())
    try:
        restyled = await restyle(emulator.url, str(tmp_path), inbox=inbox)
    finally:
        running.cancel()
    assert [output.width for output in restyled.outputs] == [256]
    assert emulator.ledger()["billed"] == len(emulator.ledger()["predictions"]) == 1
