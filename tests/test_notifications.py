"""Notifications of each sender describe the same object; any other message is refused with a reason."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.deployments.receiver.events import object_created
from prefect_wavespeed.deployments.receiver.notifications import (
    InvalidNotificationError,
    Notification,
    parse_json,
    parse_notification,
)
from prefect_wavespeed.deployments.receiver.sns import ForgedError, SnsVerifier, is_envelope
from prefect_wavespeed.errors import UnavailableError
from tests.support.notifications import (
    CERTIFICATE_URL,
    ETAG,
    KEY,
    SUBSCRIBE_URL,
    aws,
    ceph,
    certificate,
    configured,
    eventbridge,
    minio,
    record,
    sns,
)

CREATED = ObjectCreated(
    bucket="photos", key=KEY, etag=ETAG, sequencer="0055AED6DCD90281E5", size=1024, version=None
)
VERSIONED = CREATED.model_copy(update={"version": "L4kqtJlcpXroDTDmpUMLUo"})


@pytest.mark.parametrize(
    ("message", "created"),
    [
        (aws(), CREATED),
        (aws(versionId="L4kqtJlcpXroDTDmpUMLUo"), VERSIONED),
        (aws(event="ObjectCreated:CompleteMultipartUpload"), CREATED),
        (minio(), CREATED),
        (minio(versionId="L4kqtJlcpXroDTDmpUMLUo"), VERSIONED),
        (ceph(), CREATED),
        (ceph(versionId="L4kqtJlcpXroDTDmpUMLUo"), VERSIONED),
        (eventbridge(), CREATED),
        (eventbridge(**{"version-id": "L4kqtJlcpXroDTDmpUMLUo"}), VERSIONED),
    ],
)
def test_the_notification_of_each_sender(message: dict[str, Any], created: ObjectCreated) -> None:
    assert parse_notification(parse_json(json.dumps(message))) == Notification([created])


def test_a_key_may_be_as_long_as_s3_allows() -> None:
    key = "é" * 512  # 1,024 bytes, 3,072 when encoded
    assert parse_notification(aws(key)).created[0].key == key


def test_a_notification_may_contain_several_objects_and_other_records() -> None:
    message = aws("in/1.jpg", "in/2.jpg")
    message["Records"].insert(1, record(event="ObjectRemoved:Delete"))
    notification = parse_notification(message)
    assert [created.key for created in notification.created] == ["in/1.jpg", "in/2.jpg"]
    assert notification.ignored == 1


@pytest.mark.parametrize(
    "odd",
    [None, 7, [], {}, {"eventName": "ObjectCreated:Put"}, record("%FF"), record("x" * 1025)],
)
def test_an_odd_record_costs_only_itself_and_is_logged(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    message = aws("in/1.jpg", "in/2.jpg")
    message["Records"].insert(1, odd)
    notification = parse_notification(message)
    assert ([created.key for created in notification.created], notification.ignored) == (
        ["in/1.jpg", "in/2.jpg"],
        1,
    )
    assert "this record is left out" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        configured(),
        eventbridge("Object Deleted"),
        aws(event="ObjectRemoved:Delete"),
        aws(event="s3:ObjectRestore:Completed"),
        {"Records": [{"eventSource": "aws:ses", "eventName": "Received"}]},
    ],
)
def test_other_events_than_creations_are_ignored(message: dict[str, Any]) -> None:
    assert parse_notification(message) == Notification([], ignored=1)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "neither Records nor detail-type"),
        ({"Records": {}}, "Records is not a list"),
        ({"Records": [1]}, "a record: should be an object"),
        ({"Records": [{}]}, "eventName"),
        ({"Records": [{"eventName": "ObjectCreated:Put"}]}, "s3: should be an object"),
        ({"Records": [record("")]}, "object.key"),
        (aws("x" * 1025), "not a valid object key"),
        (aws("é" * 513), "not a valid object key"),
        (eventbridge(key="é" * 513), "not a valid object key"),
        ({"Records": [record("%FF")]}, "the key is not URL-encoded"),
        ({"Records": [record("%00")]}, "not a valid object key"),
        ({"Records": [record("\ud800")]}, "object.key"),
        (aws(size=-1), "object.size"),
        (aws(size=2**70), "object.size"),
        (aws(versionId={}), "object.versionId"),
        ({"detail-type": "Object Created"}, "detail: Field required"),
        ({"detail-type": "Object Created", "detail": {"bucket": {"name": ""}}}, "bucket.name"),
    ],
)
def test_another_format_is_refused_with_the_reason(message: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidNotificationError, match=reason):
        parse_notification(message)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b"null", b'"Records"', b"[" * 100_000, b"1" * 10_000]
)
def test_anything_but_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidNotificationError, match="JSON"):
        parse_json(body)


class Amazon:
    """Answers instead of sns.*.amazonaws.com."""

    def __init__(self, **answers: bytes) -> None:
        self.asked: list[str] = []

    async def __call__(self, url: str) -> bytes:
        self.asked.append(url)
        return certificate() if url.endswith(".pem") else b"<ConfirmSubscriptionResponse/>"


def verify(envelope: dict[str, Any], fetch: Callable[[str], Awaitable[bytes]] | None = None) -> None:
    asyncio.run(SnsVerifier(fetch or Amazon()).verify(envelope))


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("kind", ["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_an_envelope_signed_by_sns_is_accepted(version: str, kind: str) -> None:
    envelope = sns(aws(), version=version, kind=kind)
    assert is_envelope(envelope)
    verify(envelope)


def test_the_subject_is_signed_too() -> None:
    envelope = sns(aws(), Subject="Amazon S3 Notification")
    verify(envelope)
    with pytest.raises(ForgedError):
        verify(envelope | {"Subject": "another"})


@pytest.mark.parametrize(
    "change",
    [
        {"Message": json.dumps(aws("in/another.jpg"))},
        {"MessageId": "another"},
        {"TopicArn": "arn:aws:sns:eu-central-1:210987654321:pictures"},
        {"Timestamp": "2026-01-02T00:00:00.000Z"},
        {"Type": "UnsubscribeConfirmation", "Token": "x", "SubscribeURL": SUBSCRIBE_URL},
        {"SignatureVersion": "2"},
        {"Signature": base64.b64encode(bytes(256)).decode()},
        {"Signature": "no base64"},
        {"Signature": ""},
        {"Message": "\ud800"},
    ],
)
def test_no_signed_field_can_be_changed(change: dict[str, str]) -> None:
    with pytest.raises(ForgedError):
        verify(sns(aws()) | change)


@pytest.mark.parametrize(
    "url",
    [
        CERTIFICATE_URL.replace("https:", "http:"),
        CERTIFICATE_URL.replace("amazonaws.com", "amazonaws.com.example.com"),
        CERTIFICATE_URL.replace("sns.eu-central-1.amazonaws.com", "example.com"),
        CERTIFICATE_URL.replace("sns.", "sns-"),
        CERTIFICATE_URL.replace("//", "//user@"),
        CERTIFICATE_URL.replace(".com/", ".com@example.com/"),
        CERTIFICATE_URL.replace(".com/", ".com:8443/"),
        "https://s3.amazonaws.com/sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem",
        "https://sns.eu-central-1.amazonaws.com/?x=SimpleNotificationService-1.pem",
        CERTIFICATE_URL + "\n",
        "",
    ],
)
def test_a_certificate_from_another_host_is_not_even_fetched(url: str) -> None:
    amazon = Amazon()
    with pytest.raises(ForgedError, match="SigningCertURL"):
        verify(sns(aws(), SigningCertURL=url), amazon)
    assert amazon.asked == []


def test_the_host_of_china_is_accepted() -> None:
    verify(
        sns(
            aws(),
            SigningCertURL=CERTIFICATE_URL.replace(".com/", ".com.cn/").replace("eu-central", "cn-north"),
        )
    )


@pytest.mark.parametrize(
    "name", ["Message", "MessageId", "Timestamp", "Signature", "SignatureVersion", "SigningCertURL"]
)
def test_an_incomplete_envelope_is_refused(name: str) -> None:
    envelope = sns(aws())
    del envelope[name]
    with pytest.raises(InvalidNotificationError, match=name):
        verify(envelope)
    with pytest.raises(InvalidNotificationError, match=name):
        verify(envelope | {name: 1})


def test_an_invalid_certificate_proves_nothing() -> None:
    async def garbage(url: str) -> bytes:
        return b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"

    with pytest.raises(ForgedError):
        verify(sns(aws()), garbage)


def test_a_certificate_that_cannot_be_fetched_is_a_temporary_error() -> None:
    async def away(url: str) -> bytes:
        raise UnavailableError("Amazon SNS cannot be reached")

    with pytest.raises(UnavailableError):
        verify(sns(aws()), away)


@pytest.mark.parametrize(("seconds", "times"), [(60.0, 1), (0.0, 2)])
def test_a_certificate_is_fetched_once_a_day(
    seconds: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_wavespeed.deployments.receiver.sns._KEY_SECONDS", seconds)

    async def twice() -> None:
        for version in ("1", "2"):
            await gate.verify(sns(aws(), version=version))

    amazon = Amazon()
    gate = SnsVerifier(amazon)
    asyncio.run(twice())
    assert amazon.asked == [CERTIFICATE_URL] * times


def test_a_subscription_is_confirmed_at_sns() -> None:
    amazon = Amazon()
    asyncio.run(SnsVerifier(amazon).confirm(sns("…", kind="SubscriptionConfirmation")))
    assert amazon.asked == [SUBSCRIBE_URL]


@pytest.mark.parametrize(
    "url",
    [
        SUBSCRIBE_URL.replace("https", "http"),
        SUBSCRIBE_URL.replace(".com/", ".com.example.com/"),
        SUBSCRIBE_URL.replace("ConfirmSubscription", "Publish"),
        "https://169.254.169.254/latest/meta-data",
    ],
)
def test_a_subscription_is_confirmed_nowhere_else(url: str) -> None:
    amazon = Amazon()
    with pytest.raises(ForgedError, match="SubscribeURL"):
        asyncio.run(SnsVerifier(amazon).confirm(sns("…", kind="SubscriptionConfirmation", SubscribeURL=url)))
    assert amazon.asked == []


def test_an_identified_version_is_one_event_and_others_are_an_event_each() -> None:
    for mark in ({"version": "v1"}, {"sequencer": "0A"}, {"etag": "e"}):
        created = ObjectCreated(bucket="b", key="k", **mark)  # type: ignore[arg-type]
        assert object_created(created).id == object_created(created).id
    unidentified = ObjectCreated(bucket="b", key="k")
    assert object_created(unidentified).id != object_created(unidentified).id
