"""Notifications of one object as its senders word them, and envelopes as Amazon SNS seals them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote_plus

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding

KEY = "in/a b+c%20é.jpg"
"""A key that comes out wrong when it is decoded once too often or too seldom."""

ETAG = "9dd4e461268c8034f5c8564e155c67a6"
CERTIFICATE_URL = (
    "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem"
)
TOPIC = "arn:aws:sns:eu-central-1:123456789012:pictures"
SUBSCRIBE_URL = (
    f"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37fb"
)


def record(
    key: str = KEY, *, event: str = "ObjectCreated:Put", source: str = "aws:s3", **about: Any
) -> dict[str, Any]:
    """One of the ``Records``, with the key as it is."""
    return {
        "eventVersion": "2.1",
        "eventSource": source,
        "awsRegion": "eu-central-1",
        "eventTime": "2026-01-01T00:00:00.000Z",
        "eventName": event,
        "userIdentity": {"principalId": "AWS:AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {
            "x-amz-request-id": "C3D13FE58DE4C810",
            "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZ",
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "pictures",
            "bucket": {
                "name": "photos",
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": "arn:aws:s3:::photos",
            },
            "object": {"key": key, "size": 1024, "eTag": ETAG, "sequencer": "0055AED6DCD90281E5", **about},
        },
    }


def aws(*keys: str, **about: Any) -> dict[str, Any]:
    """As AWS sends it: a key's spaces as ``+``, its slashes as they are."""
    return {"Records": [record(quote_plus(key, safe="/"), **about) for key in keys or (KEY,)]}


def minio(**about: Any) -> dict[str, Any]:
    """As MinIO sends it: slashes encoded, too."""
    name = "s3:ObjectCreated:Put"
    one = record(quote_plus(KEY), event=name, source="minio:s3", contentType="image/jpeg", **about)
    return {"EventName": name, "Key": f"photos/{KEY}", "Records": [one]}


def ceph(**about: Any) -> dict[str, Any]:
    """As a Ceph gateway sends it: the key plain, and an empty version for none."""
    return {"Records": [record(source="ceph:s3", **{"versionId": "", "metadata": [], "tags": [], **about})]}


def eventbridge(kind: str = "Object Created", **about: Any) -> dict[str, Any]:
    """As Amazon EventBridge sends it: the key as it is."""
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": kind,
        "source": "aws.s3",
        "account": "123456789012",
        "time": "2026-01-01T00:00:00Z",
        "region": "eu-central-1",
        "resources": ["arn:aws:s3:::photos"],
        "detail": {
            "version": "0",
            "bucket": {"name": "photos"},
            "object": {"key": KEY, "size": 1024, "etag": ETAG, "sequencer": "0055AED6DCD90281E5", **about},
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "source-ip-address": "127.0.0.1",
            "reason": "PutObject",
        },
    }


def configured() -> dict[str, Any]:
    """What AWS sends when the notification is configured."""
    return {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2026-01-01T00:00:00.000Z",
        "Bucket": "photos",
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
    }


def sns(
    message: dict[str, Any] | str, *, version: str = "1", kind: str = "Notification", **more: Any
) -> dict[str, Any]:
    """The envelope around a message, signed by the key of `certificate`."""
    envelope: dict[str, Any] = {
        "Type": kind,
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": "2026-01-01T00:00:00.000Z",
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE_URL,
        "UnsubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=Unsubscribe",
    }
    if kind != "Notification":
        envelope |= {"Token": "2336412f37fb", "SubscribeURL": SUBSCRIBE_URL}
    envelope |= more
    signed = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    data = "".join(f"{name}\n{envelope[name]}\n" for name in signed if name in envelope).encode()
    signature = _key().sign(data, PKCS1v15(), SHA256() if version == "2" else SHA1())
    return {"Signature": base64.b64encode(signature).decode(), **envelope}


@cache
def certificate() -> bytes:
    """A certificate of this test instead of Amazon's."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(_key(), SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


@cache
def _key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)
