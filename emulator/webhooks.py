"""Webhooks, signed as WaveSpeedAI does, and delivered with three retries."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time

import aiohttp

from prefect_wavespeed.emulator.faults import Rule

BACKOFF = (1.0, 2.0, 4.0)
"""Seconds before each retry of a delivery that was not answered with 2xx."""

_ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=10)


def secret_of(key: str) -> str:
    """Return the webhook secret of an API key: always the same, so that receivers survive a restart."""
    return "whsec_" + hashlib.sha256(b"webhook secret of " + key.encode()).hexdigest()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The ``webhook-signature`` header: HMAC-SHA256 keyed with the secret's text after ``whsec_``."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v3," + hmac.new(secret.removeprefix("whsec_").encode(), signed, hashlib.sha256).hexdigest()


async def deliver(
    session: aiohttp.ClientSession,
    url: str,
    secret: str,
    webhook_id: str,
    body: bytes,
    log: list[int | None],
    rule: Rule | None = None,
) -> None:
    """Deliver one webhook until it is answered with 2xx, four times at the most.

    Args:
        webhook_id: the same for every attempt, by which a receiver recognises a repetition.
        log: gets the status of every attempt; None where there was no answer.
        rule: the fault, if any.
    """
    fault = rule.fault if rule else None
    if fault == "drop":
        return
    if fault == "late" and rule is not None:
        await asyncio.sleep(rule.seconds or 0)
    if fault == "forged":
        secret = secret_of("another account")
    for _ in range(2 if fault == "twice" else 1):
        for wait in (*BACKOFF, None):
            status = await _attempt(session, url, secret, webhook_id, body)
            log.append(status)
            if wait is None or (status is not None and 200 <= status < 300):
                break
            await asyncio.sleep(wait)


async def _attempt(
    session: aiohttp.ClientSession, url: str, secret: str, webhook_id: str, body: bytes
) -> int | None:
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, webhook_id, timestamp, body),
    }
    try:
        async with session.post(
            url, data=body, headers=headers, timeout=_ANSWER_TIMEOUT, allow_redirects=False
        ) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
