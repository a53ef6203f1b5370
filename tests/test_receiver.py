"""The receiver verifies its senders; what it acknowledges is one Prefect event, however often it is sent."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_wavespeed.api.webhooks import unseal
from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.blocks.names import RECEIVER_TOKEN_SECRET, WEBHOOK_SECRET
from prefect_wavespeed.emulator.webhooks import secret_of, sign
from tests.support.emulator_process import Emulator
from tests.support.in_process import restyle
from tests.support.notifications import ETAG, KEY, aws, ceph, configured, eventbridge, minio, record, sns
from tests.support.prefect_server import PrefectServer
from tests.support.processes import wait_until
from tests.support.receivers import TOKEN, Receiving, free_port, receiving
from tests.support.s3_proxy import Fault, Proxy, proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.e2e  # servers and processes

API_KEY = "a-key-of-wavespeeds"
SECRET = secret_of(API_KEY)
OUTPUT = "https://d111.cloudfront.example/out.jpeg?signature=as-good-as-a-key"
CREATED = "restyle.object.created"
ENDED = "wavespeed.prediction.ended"


@pytest.fixture(scope="module")
def receiver(prefect: PrefectServer, emulator_process: Emulator) -> Iterator[Receiving]:
    """One receiver for all tests that do not stop it."""
    env = {"WAVESPEED_API_KEY": API_KEY, "WAVESPEED_BASE_URL": emulator_process.url}
    with receiving(prefect, env=env) as running:
        yield running


def received(prefect: PrefectServer, receiver: Receiving, name: str) -> list[dict[str, Any]]:
    """All events of this name, once Prefect has stored those that it has accepted so far."""
    last = f"last/{uuid4()}.jpg"
    assert receiver.notify(aws(last)).status_code == 200
    wait_until(lambda: any(event["payload"]["key"] == last for event in prefect.events(CREATED)))
    return prefect.events(name)


def webhook(**prediction: Any) -> bytes:
    default = {"id": f"p-{uuid4().hex}", "status": "completed", "outputs": [OUTPUT], "input": {"seed": 7}}
    return json.dumps(default | prediction).encode()


def signed(body: bytes, *, secret: str = SECRET, age: float = 0, **instead: str | None) -> dict[str, str]:
    """Headers as WaveSpeedAI sends them, with some of them changed or left out."""
    sent = int(time.time() - age)
    headers = {
        "webhook_id": "evt_1",
        "webhook_timestamp": str(sent),
        "webhook_signature": sign(secret, "evt_1", sent, body),
    } | instead
    return {name.replace("_", "-"): value for name, value in headers.items() if value is not None}


# Body that is signed, headers, body that is sent, statuses of the answers, number of events.
WEBHOOKS: dict[str, tuple[bytes, Callable[[bytes], dict[str, str]], bytes, list[int], int]] = {
    "valid": (body := webhook(), signed, body, [200], 1),
    "failed": (body := webhook(status="failed", code=1200, error="moderation"), signed, body, [200], 1),
    "of an unknown prediction": (body := webhook(model="another/model"), signed, body, [200], 1),
    "twice": (body := webhook(), signed, body, [200, 200], 1),
    "forged": (body := webhook(), lambda b: signed(b, secret="whsec_forged"), body, [401], 0),
    "altered": (body := webhook(), signed, body.replace(b"completed", b"failed"), [401], 0),
    "longer": (body := webhook(), signed, body + b" ", [401], 0),
    "old": (body := webhook(), lambda b: signed(b, age=310), body, [400], 0),
    "from the future": (body := webhook(), lambda b: signed(b, age=-310), body, [400], 0),
    "of another version": (
        body := webhook(),
        lambda b: signed(b, webhook_signature="v2," + "0" * 64),
        body,
        [400],
        0,
    ),
    "without an id": (body := webhook(), lambda b: signed(b, webhook_id=None), body, [400], 0),
    "without a time": (body := webhook(), lambda b: signed(b, webhook_timestamp=None), body, [400], 0),
    "without a signature": (body := webhook(), lambda b: signed(b, webhook_signature=None), body, [400], 0),
    "oversized": (body := webhook(error="x" * (1 << 20)), signed, body, [413], 0),
    "not JSON": (body := b"<html>", signed, body, [400], 0),
    "not a prediction": (body := b'{"status": "completed"}', signed, body, [400], 0),
    "not ended": (body := webhook(status="processing"), signed, body, [200], 0),
}


def test_each_kind_of_webhook_is_answered_and_becomes_an_event_or_not(
    receiver: Receiving, prefect: PrefectServer
) -> None:
    statuses: dict[str, list[int]] = {}
    for name, (body, headers, sent, _, _) in WEBHOOKS.items():
        for _ in WEBHOOKS[name][3]:
            answer = receiver.http.post("/wavespeed", content=sent, headers=headers(body))
            statuses.setdefault(name, []).append(answer.status_code)
            assert ("error" in answer.json()) == (answer.status_code != 200), name
    assert statuses == {name: row[3] for name, row in WEBHOOKS.items()}

    events = received(prefect, receiver, ENDED)
    about = [event["payload"]["prediction_id"] for event in events]
    for name, (body, _, _, _, count) in WEBHOOKS.items():
        prediction = json.loads(body).get("id", "-") if name != "not JSON" else "-"
        assert about.count(prediction) == count, name


def test_a_webhooks_event_contains_the_prediction_without_readable_urls(
    receiver: Receiving, prefect: PrefectServer
) -> None:
    for query in ("", "?wait=no", "?wait=yes"):
        body = webhook(id=f"p-event{query.strip('?')}")
        assert receiver.http.post(f"/wavespeed{query}", content=body, headers=signed(body)).is_success
    events = {e["resource"]["prefect.resource.id"]: e for e in received(prefect, receiver, ENDED)}
    queries = ("", "?wait=no", "?wait=yes")
    waited = {query: events[f"wavespeed.prediction.p-event{query.strip('?')}"] for query in queries}
    assert {query: event["resource"]["wavespeed.waited"] for query, event in waited.items()} == {
        "": "true",
        "?wait=no": "false",
        "?wait=yes": "true",
    }
    payload = waited[""]["payload"]
    assert payload.keys() == {"prediction_id", "status", "sealed"}
    assert (payload["prediction_id"], payload["status"]) == ("p-event", "completed")
    assert "cloudfront" not in json.dumps(waited[""])
    assert unseal(payload["sealed"], SECRET).prediction.outputs == [OUTPUT]


def test_the_webhook_secret_is_kept_and_fetched_again_when_it_has_changed(
    prefect: PrefectServer, emulator: Emulator
) -> None:
    with prefect.used_here():
        stale: Secret[Any] = Secret(value=SecretStr("whsec_of-last-year"))
        stale.save(WEBHOOK_SECRET, overwrite=True)
    env = {"WAVESPEED_API_KEY": API_KEY, "WAVESPEED_BASE_URL": emulator.url}
    with receiving(prefect, env=env) as receiver:
        for secret, status in (("whsec_of-last-year", 200), (SECRET, 200), ("whsec_of-last-year", 401)):
            body = webhook()
            answer = receiver.http.post("/wavespeed", content=body, headers=signed(body, secret=secret))
            assert answer.status_code == status, answer.text
        # neither valid nor forged webhooks make it ask again
        assert emulator.ledger()["calls"]["secret"] == 1
    with prefect.used_here():
        kept: Secret[Any] = asyncio.run(Secret.aload(WEBHOOK_SECRET))
        assert kept.value.get_secret_value() == SECRET


def test_webhooks_are_answered_503_while_the_secret_is_not_available(prefect: PrefectServer) -> None:
    with prefect.used_here():
        Secret.delete(WEBHOOK_SECRET)
    env = {"WAVESPEED_API_KEY": API_KEY, "WAVESPEED_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    with receiving(prefect, env=env) as receiver:
        body = webhook()
        answer = receiver.http.post("/wavespeed", content=body, headers=signed(body))
        assert (answer.status_code, "secret" in answer.json()["error"]) == (503, True)
        assert answer.headers["retry-after"].isdigit()
        assert API_KEY not in answer.text


def created(**about: Any) -> ObjectCreated:
    default = {"bucket": "photos", "key": KEY, "etag": ETAG, "sequencer": "0055AED6DCD90281E5", "size": 1024}
    return ObjectCreated.model_validate(default | about)


NOTIFICATIONS = {
    "aws": (aws(versionId="by-aws"), created(version="by-aws")),
    "minio": (minio(versionId="by-minio"), created(version="by-minio")),
    "ceph": (ceph(versionId="by-ceph"), created(version="by-ceph")),
    "eventbridge": (eventbridge(**{"version-id": "by-eventbridge"}), created(version="by-eventbridge")),
    "unversioned": (aws("in/unversioned.jpg"), created(key="in/unversioned.jpg")),
}


def test_a_notification_sent_five_times_is_one_event_for_each_kind_of_sender(
    receiver: Receiving, prefect: PrefectServer
) -> None:
    for message, _ in [*NOTIFICATIONS.values()] * 5:
        assert receiver.notify(message).json() == {"events": 1, "ignored": 0}
    events = received(prefect, receiver, CREATED)
    for name, (_, expected) in NOTIFICATIONS.items():
        (event,) = [one for one in events if one["payload"] == expected.model_dump(mode="json")]
        assert event["resource"] == {
            "prefect.resource.id": expected.uri,
            "prefect.resource.name": expected.key.removeprefix("in/"),
        }, name


def test_every_record_of_a_notification_counts(receiver: Receiving, prefect: PrefectServer) -> None:
    message = aws(*(f"many/{n}.jpg" for n in range(250)))
    message["Records"].append(record(event="ObjectRemoved:Delete"))
    assert receiver.notify(message).json() == {"events": 250, "ignored": 1}
    keys = {event["payload"]["key"] for event in received(prefect, receiver, CREATED)}
    assert len([key for key in keys if key.startswith("many/")]) == 250


def test_an_overwritten_object_is_another_event(receiver: Receiving, prefect: PrefectServer) -> None:
    for sequencer in ("01", "02"):
        assert receiver.notify(aws("in/overwritten.jpg", sequencer=sequencer)).is_success
    events = [e for e in received(prefect, receiver, CREATED) if e["payload"]["key"] == "in/overwritten.jpg"]
    assert {event["payload"]["sequencer"] for event in events} == {"01", "02"}


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("", basic(TOKEN), 200),
        (f"?token={TOKEN}", {}, 200),
        (f"?token={TOKEN}", basic("another"), 200),
        ("", {}, 401),
        ("?token=", {}, 401),
        ("?token=another", {}, 401),
        ("", {"Authorization": "Bearer another"}, 401),
        ("", {"Authorization": f"Bearer {TOKEN}x"}, 401),
        ("", {"Authorization": TOKEN}, 401),
        ("", basic(f"{TOKEN}:x"), 401),
        ("", {"Authorization": "Basic no base64"}, 401),
        ("?token=%FF%00é", {"Authorization": "Bearer \xff"}, 401),
    ],
)
def test_notifications_need_the_token(
    query: str, headers: dict[str, str], status: int, receiver: Receiving
) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = receiver.http.post(f"/s3{query}", json=configured(), headers=encoded)
    assert answer.status_code == status
    # Amazon SNS sends the user and password of a URL only after this challenge
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/s3", json.dumps(configured()).encode(), 200),
        ("POST", "/s3", b"", 400),
        ("POST", "/s3", b"no JSON", 400),
        ("POST", "/s3", b'{"a": "notification of something else"}', 400),
        ("POST", "/s3", json.dumps(sns(aws())).encode(), 503),  # Amazon cannot be reached for the certificate
        ("POST", "/s3", json.dumps(sns(aws(), SigningCertURL="https://example.com/1.pem")).encode(), 401),
        ("POST", "/s3", b"x" * (1 << 20), 400),
        ("POST", "/s3", b"x" * ((1 << 20) + 1), 413),
        ("POST", "/s3", b"x" * (1 << 24), 413),
        ("GET", "/s3", b"", 405),
        ("PUT", "/wavespeed", b"", 405),
        ("POST", "/health", b"", 405),
        ("GET", "/", b"", 404),
        ("POST", "/s3/", b"", 404),
    ],
)
def test_what_is_not_accepted_is_refused_with_a_reason(
    method: str, path: str, content: bytes, status: int, receiver: Receiving
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    # a connection of its own: one whose body was not read to its end may be closed
    answer = httpx.request(method, f"{receiver.url}{path}", content=content, headers=headers, timeout=30)
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]


@pytest.mark.parametrize(("size", "is_read"), [(1, False), (1000, True)], ids=["crumbs", "pieces"])
def test_a_body_in_crumbs_is_not_read(size: int, is_read: bool, receiver: Receiving) -> None:
    body = json.dumps({**aws("in/chunked.jpg"), "padding": "x" * 20_000}).encode()
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    try:
        answer = receiver.http.post("/s3", content=pieces, headers={"Authorization": f"Bearer {TOKEN}"})
    except httpx.HTTPError:  # the connection was closed
        assert not is_read
    else:
        assert (is_read, answer.status_code) == (True, 200)
    assert receiver.http.get("/health").is_success


def test_health_and_metrics(receiver: Receiving) -> None:
    assert receiver.notify(aws("in/counted.jpg")).is_success
    assert receiver.http.get("/health").json() == {"status": "ok"}
    metrics = receiver.http.get("/metrics").text
    assert f'restyle_receiver_events_total{{event="{CREATED}"}}' in metrics
    assert 'restyle_receiver_requests_total{path="/s3",status="200"}' in metrics
    assert "restyle_receiver_prefect_up 1.0" in metrics


@pytest.fixture
def between(prefect: PrefectServer) -> Iterator[tuple[Proxy, dict[str, str]]]:
    """A proxy before Prefect, and the environment of a receiver that uses it."""
    parts = urlsplit(prefect.url)
    with proxy(S3Server(f"{parts.scheme}://{parts.netloc}")) as (before, seen):
        yield before, {"PREFECT_API_URL": f"{seen.endpoint}/api"}


def test_while_prefect_is_down_senders_are_asked_to_retry(
    between: tuple[Proxy, dict[str, str]], prefect: PrefectServer
) -> None:
    before, env = between
    with receiving(prefect, env=env) as receiver:
        message = aws("in/while-away.jpg")
        before.down()
        for _ in range(2):
            answer = receiver.notify(message)
            assert answer.status_code == 503
            assert answer.headers["retry-after"].isdigit()
        wait_until(lambda: receiver.http.get("/health").status_code == 503, 10)
        assert "cannot be reached" in receiver.http.get("/health").json()["error"]
        before.up()
        assert receiver.notify(message).status_code == 200
        wait_until(lambda: receiver.http.get("/health").status_code == 200, 10)
        events = received(prefect, receiver, CREATED)
        assert [e["payload"]["key"] for e in events].count("in/while-away.jpg") == 1
        receiver.command.send(signal.SIGINT)
        ended = receiver.command.ended(60)
    assert ended.status == 0
    # logged once when it goes down and once when it is back, whatever is sent meanwhile
    assert ended.stderr.count("senders are asked to retry") == 1
    assert ended.stderr.count("Prefect accepts events again") == 1
    assert TOKEN not in ended.stdout + ended.stderr


def test_nothing_is_acknowledged_that_prefect_may_not_have_accepted(
    between: tuple[Proxy, dict[str, str]], prefect: PrefectServer
) -> None:
    before, env = between
    faults: tuple[Any, ...] = ("refuse", "fail", "drop")
    with receiving(prefect, env=env) as receiver:
        for fault in faults:
            message = aws(f"in/{fault}.jpg")
            before.faults.append(Fault(fault, "POST", "/events"))
            assert receiver.notify(message).status_code == 503
            assert receiver.notify(message).status_code == 200
        keys = [event["payload"]["key"] for event in received(prefect, receiver, CREATED)]
    assert [keys.count(f"in/{fault}.jpg") for fault in faults] == [1, 1, 1]


def test_when_stopped_it_answers_requests_in_progress_and_exits_with_0(prefect: PrefectServer) -> None:
    body = json.dumps(aws("in/stopped.jpg")).encode()
    with receiving(prefect) as receiver:
        port = urlsplit(receiver.url).port
        with closing(socket.create_connection(("127.0.0.1", port))) as sender:
            head = f"POST /s3?token={TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            sender.sendall(head.encode() + body[:10])
            time.sleep(0.5)
            receiver.command.send(signal.SIGTERM)
            time.sleep(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            sender.sendall(body[10:])
            assert sender.recv(1000).startswith(b"HTTP/1.1 200 ")
        ended = receiver.command.ended(60)
    assert (ended.status, ended.stdout) == (0, f"listening on {receiver.url}\n")
    assert "Traceback" not in ended.stderr
    wait_until(lambda: any(e["payload"]["key"] == "in/stopped.jpg" for e in prefect.events(CREATED)))


def test_the_token_may_be_in_a_block(prefect: PrefectServer) -> None:
    with prefect.used_here():
        token: Secret[Any] = Secret(value=SecretStr("a-token-in-a-block"))
        token.save(RECEIVER_TOKEN_SECRET, overwrite=True)
    try:
        with receiving(prefect, env={"RESTYLE_RECEIVER_TOKEN": ""}) as receiver:
            assert receiver.notify(configured(), token="a-token-in-a-block").status_code == 200
            assert receiver.notify(configured()).status_code == 401
    finally:
        with prefect.used_here():
            Secret.delete(RECEIVER_TOKEN_SECRET)


def test_what_is_missing_is_reported_in_one_line(prefect: PrefectServer, moto: S3Server) -> None:
    def error(*options: str, api_url: str | None = None, **env: str) -> str:
        given = {"RESTYLE_RECEIVER_TOKEN": TOKEN, **moto.env, **env}
        ended = restyle("receiver", *options, prefect=prefect, api_url=api_url, env=given)
        assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended
        return ended.stderr

    assert "RESTYLE_RECEIVER_TOKEN" in error(RESTYLE_RECEIVER_TOKEN="")
    assert "shorter than 16 bytes" in error(RESTYLE_RECEIVER_TOKEN="fifteen-bytes-.")
    down = f"http://127.0.0.1:{free_port()}/api"
    assert "Prefect cannot be asked" in error(RESTYLE_RECEIVER_TOKEN="", api_url=down)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in error("--port", str(taken.getsockname()[1]))
    assert "the queue's URL" in error(
        "--port", "0", "--sqs", "arn:aws:sqs:eu-central-1:123456789012:pictures"
    )
    missing = f"{moto.endpoint}/123456789012/no-such-queue"
    assert "NonExistentQueue" in error("--port", "0", "--sqs", missing)
    assert "--sqs" in error("--port", "0", "--sqs", f"http://127.0.0.1:{free_port()}/123456789012/q")


def test_without_prefect_it_does_not_start(prefect: PrefectServer) -> None:
    ended = prefect.restyle("receiver", env={"RESTYLE_RECEIVER_TOKEN": TOKEN, "PREFECT_API_URL": ""})
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended
    assert "set PREFECT_API_URL" in ended.stderr
