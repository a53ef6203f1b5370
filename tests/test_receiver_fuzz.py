"""Whatever is sent to the receiver, it answers with the right status, and never with 500."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.client.orchestration import get_client

from prefect_wavespeed.deployments.receiver.app import Receiver
from prefect_wavespeed.deployments.receiver.prefect_api import PrefectApi
from prefect_wavespeed.deployments.receiver.sns import SnsVerifier
from prefect_wavespeed.deployments.receiver.webhook_secret import WebhookSecret
from prefect_wavespeed.emulator.webhooks import sign
from tests.support.notifications import (
    SUBSCRIBE_URL,
    aws,
    ceph,
    certificate,
    configured,
    eventbridge,
    minio,
    sns,
)
from tests.support.prefect_server import PrefectServer

TOKEN = "token"
SECRET = "whsec_secret"
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


class FixedSecret(WebhookSecret):
    """A webhook secret that needs no WaveSpeedAI."""

    async def get(self) -> str:
        return SECRET

    async def refresh(self, old: str) -> str | None:
        return None


class Gate:
    """The application in this process, with a real Prefect server and an Amazon SNS of this test."""

    def __init__(self, runner: asyncio.Runner, http: httpx.AsyncClient) -> None:
        self.asked: list[str] = []
        self._runner = runner
        self._http = http

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self._runner.run(self._http.post(path, **request))

    def notify(self, message: Any) -> httpx.Response:
        return self.post("/s3", json=message, params={"token": TOKEN})


@pytest.fixture(scope="module")
def gate(prefect: PrefectServer) -> Iterator[Gate]:
    asked: list[str] = []

    async def amazon(url: str) -> bytes:
        asked.append(url)
        return certificate()

    with asyncio.Runner() as runner, prefect.used_here():
        client = runner.run(get_client().__aenter__())
        receiver = Receiver(PrefectApi(client), FixedSecret("default"), SnsVerifier(amazon), TOKEN)
        transport = httpx.ASGITransport(receiver.app())
        http = httpx.AsyncClient(transport=transport, base_url="http://receiver", timeout=60)
        gate = Gate(runner, http)
        gate.asked = asked
        yield gate
        runner.run(http.aclose())
        runner.run(client.__aexit__(None, None, None))


def test_notifications_through_sns_become_events(gate: Gate) -> None:
    for version in ("1", "2"):
        assert gate.notify(sns(aws(), version=version)).json() == {"events": 1, "ignored": 0}
    assert gate.notify(sns(eventbridge())).json() == {"events": 1, "ignored": 0}
    assert gate.notify(sns(configured())).json() == {"events": 0, "ignored": 1}
    assert gate.notify(sns("no JSON")).status_code == 400
    assert gate.notify(sns(aws()) | {"Message": json.dumps(aws("in/another.jpg"))}).status_code == 401


def test_a_signature_does_not_replace_the_token(gate: Gate) -> None:
    assert gate.post("/s3", json=sns(aws())).status_code == 401


def test_a_subscription_is_confirmed_only_if_it_is_authentic(gate: Gate) -> None:
    forged = sns("…", kind="SubscriptionConfirmation") | {"Message": "another"}
    assert gate.notify(forged).status_code == 401
    assert SUBSCRIBE_URL not in gate.asked
    assert gate.notify(sns("…", kind="UnsubscribeConfirmation")).status_code == 200
    assert SUBSCRIBE_URL not in gate.asked
    assert gate.notify(sns("…", kind="SubscriptionConfirmation")).status_code == 200
    assert gate.asked[-1] == SUBSCRIBE_URL


@pytest.mark.parametrize(
    "host",
    [
        "sns.s3.amazonaws.com",  # a bucket named "sns"
        "sns.s3-us-west-2.amazonaws.com",
        "sns.s3-accelerate.amazonaws.com",
        "sns.eu-central-1.amazonaws.com.example",
        "sns.eu-central-1.amazonaws.com@example.org",
        "sns.eu-central-1.s3.amazonaws.com",
        "sqs.eu-central-1.amazonaws.com",
        "sns.execute-api.amazonaws.com",
    ],
)
def test_certificates_and_confirmations_come_from_no_other_host_than_snss(gate: Gate, host: str) -> None:
    url, confirm = (
        f"https://{host}/SimpleNotificationService-1.pem",
        f"https://{host}/?Action=ConfirmSubscription&a=b",
    )
    assert gate.notify(sns(aws(), SigningCertURL=url)).status_code == 401
    assert gate.notify(sns("…", kind="SubscriptionConfirmation", SubscribeURL=confirm)).status_code == 401
    assert not any(host in asked for asked in gate.asked)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(st.characters(codec=None), max_size=40)  # lone surrogates, too
MESSAGES = [
    aws(),
    minio(),
    ceph(),
    eventbridge(),
    configured(),
    sns(aws()),
    sns("x", kind="SubscriptionConfirmation"),
]


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A notification with one value in it replaced or removed."""
    message = json.loads(json.dumps(draw(st.sampled_from(MESSAGES))))
    node: Any = message
    while True:
        at = draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.just(0))
        if isinstance(node[at], dict | list) and node[at] and draw(st.booleans()):
            node = node[at]
            continue
        if draw(st.integers(0, 3)):
            node[at] = draw(ANYTHING | TEXT)
        else:
            del node[at]
        return message


BODIES = st.binary(max_size=200) | (ANYTHING | TEXT | damaged()).map(lambda value: json.dumps(value).encode())
HEADER = st.binary(max_size=60).map(lambda value: value.translate(None, b"\0\r\n"))


@MANY
@given(BODIES)
def test_any_notification(gate: Gate, body: bytes) -> None:
    answer = gate.post("/s3", content=body, params={"token": TOKEN})
    assert answer.status_code in (200, 400, 401)
    assert ("error" in answer.json()) == (answer.status_code != 200)


@MANY
@given(HEADER, st.binary(max_size=40))
def test_any_credentials(gate: Gate, authorization: bytes, query: bytes) -> None:
    for scheme in (b"", b"Basic ", b"Bearer "):
        headers = [(b"authorization", scheme + authorization)]
        answer = gate.post(f"/s3?token={quote(query)}", headers=headers, json=configured())
        assert answer.status_code in (200, 401)


PREDICTIONS = st.fixed_dictionaries(
    {
        "id": TEXT | ANYTHING,
        "status": st.sampled_from(["completed", "failed", "processing"]) | TEXT | ANYTHING,
    },
    optional=dict.fromkeys(("outputs", "input", "code", "error", "timings", "created_at"), ANYTHING),
).map(lambda value: json.dumps(value).encode())


@MANY
@given(BODIES | PREDICTIONS)
def test_any_signed_webhook(gate: Gate, body: bytes) -> None:
    sent = int(time.time())
    headers = {
        "webhook-id": "evt",
        "webhook-timestamp": str(sent),
        "webhook-signature": sign(SECRET, "evt", sent, body),
    }
    answer = gate.post("/wavespeed", content=body, headers=headers)
    assert answer.status_code in (200, 400)


@MANY
@given(BODIES, HEADER, HEADER, HEADER)
def test_any_webhook(gate: Gate, body: bytes, name: bytes, sent: bytes, signature: bytes) -> None:
    for version in (b"", b"v3,", b"v3," + b"0" * 64):
        headers = [
            (b"webhook-id", name),
            (b"webhook-timestamp", sent),
            (b"webhook-signature", version + signature),
        ]
        assert gate.post("/wavespeed", content=body, headers=headers).status_code in (400, 401)
