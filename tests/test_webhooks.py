"""A webhook is believed when WaveSpeedAI has signed it, lately, and not otherwise."""

from __future__ import annotations

import base64
import hmac
import json
import os
import time
from hashlib import sha256
from typing import Any

import pytest
import time_machine
from pydantic import SecretStr

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import (
    BadPayloadError,
    BadSealError,
    BadSignatureError,
    MissingHeaderError,
    StaleWebhookError,
    WebhookError,
    seal,
    unseal,
    verify_webhook,
)
from prefect_wavespeed.errors import ConfigurationError

SECRET = "whsec_bm90LWJhc2U2NC1kZWNvZGVk"
NOW = 1_767_225_600
BODY = json.dumps({"id": "p1", "model": MODEL, "status": "completed", "input": {"seed": 7}}).encode()


def signed(
    body: bytes = BODY, *, sent: float = NOW, secret: str = SECRET, name: str = "w1"
) -> dict[str, str]:
    """Headers as WaveSpeedAI sends them."""
    key = secret.removeprefix("whsec_").encode()
    signature = hmac.new(key, f"{name}.{sent}.".encode() + body, sha256).hexdigest()
    return {"webhook-id": name, "webhook-timestamp": str(sent), "webhook-signature": f"v3,{signature}"}


def test_a_signature_made_by_hand_is_known() -> None:
    """HMAC-SHA256 with the key "key", over "w1.1767225600.{}", by another implementation (openssl)."""
    signature = "v3,24d5be8950b561245f12a4699d13ea20f80a7edc9ada3b66080d06aa0ecc622e"
    headers = {"webhook-id": "w1", "webhook-timestamp": "1767225600", "webhook-signature": signature}
    with pytest.raises(BadPayloadError):
        verify_webhook(headers, b"{}", "whsec_key", now=NOW)


@pytest.mark.parametrize("secret", [SECRET, SecretStr(SECRET), SECRET.removeprefix("whsec_")])
def test_a_signed_webhook_gives_its_prediction(secret: str | SecretStr) -> None:
    prediction = verify_webhook(signed(), BODY, secret, now=NOW)
    assert (prediction.id, prediction.status, prediction.input) == ("p1", "completed", {"seed": 7})


def test_headers_may_come_in_any_case() -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert verify_webhook(headers, BODY, SECRET, now=NOW).id == "p1"


def test_one_of_several_signatures_is_enough() -> None:
    headers = signed()
    headers["webhook-signature"] = f"v3,{'0' * 64} {headers['webhook-signature']}"
    assert verify_webhook(headers, BODY, SECRET, now=NOW).id == "p1"


def test_without_a_time_given_the_clock_of_this_machine_counts() -> None:
    assert verify_webhook(signed(sent=int(time.time())), BODY, SECRET).id == "p1"
    with pytest.raises(StaleWebhookError):
        verify_webhook(signed(sent=int(time.time()) - 301), BODY, SECRET)


@pytest.mark.parametrize("age", [-300, 0, 300])
def test_five_minutes_either_way_are_fine(age: int) -> None:
    assert verify_webhook(signed(sent=NOW - age), BODY, SECRET, now=NOW).id == "p1"


@pytest.mark.parametrize("age", [-301, 301])
def test_more_is_stale(age: int) -> None:
    with pytest.raises(StaleWebhookError):
        verify_webhook(signed(sent=NOW - age), BODY, SECRET, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = signed()
    del headers[name]
    with pytest.raises(MissingHeaderError, match=name):
        verify_webhook(headers, BODY, SECRET, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": " "},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-signature": ""},
        {"webhook-signature": "v3,"},
        {"webhook-signature": "v2," + "0" * 64},
        {"webhook-signature": "v3,ünïcode"},
    ],
)
def test_a_malformed_header_is_as_good_as_none(change: dict[str, str]) -> None:
    with pytest.raises(MissingHeaderError):
        verify_webhook(signed() | change, BODY, SECRET, now=NOW)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (signed(), BODY + b" "),
        (signed(), BODY.replace(b"p1", b"p2")),
        (signed() | {"webhook-id": "w2"}, BODY),
        (signed() | {"webhook-timestamp": str(NOW + 1)}, BODY),
        (signed() | {"webhook-signature": "v3," + "0" * 64}, BODY),
        (signed() | {"webhook-id": "w\udce9"}, BODY),
        (signed(secret="whsec_another"), BODY),
        (signed(secret=base64.b64decode(SECRET.removeprefix("whsec_")).decode()), BODY),
    ],
    ids=["longer", "changed", "other id", "other time", "zeros", "odd id", "other secret", "decoded secret"],
)
def test_whatever_is_signed_cannot_be_changed(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(BadSignatureError):
        verify_webhook(headers, body, SECRET, now=NOW)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{}", b'{"id": ""}', b"<html>"])
def test_a_signed_webhook_without_a_prediction_is_refused(body: bytes) -> None:
    with pytest.raises(BadPayloadError) as caught:
        verify_webhook(signed(body), body, SECRET, now=NOW)
    assert isinstance(caught.value, WebhookError)
    assert not caught.value.retryable


@pytest.mark.parametrize("secret", ["", "whsec_", " "])
def test_an_empty_secret_is_no_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError):
        verify_webhook(signed(secret=""), BODY, secret, now=NOW)


def test_base64_outputs_are_decoded() -> None:
    picture = os.urandom(5000)
    outputs = [base64.b64encode(picture).decode(), "https://example.com/2.jpeg"]
    payload: dict[str, Any] = {"id": "p1", "status": "completed", "outputs": outputs}
    body = json.dumps(payload).encode()
    prediction = verify_webhook(signed(body), body, SECRET, now=NOW)
    assert prediction.outputs == ["inline:0", "https://example.com/2.jpeg"]
    assert prediction.inline("inline:0") == picture


ENDED = Prediction.model_validate(
    {
        "id": "p1",
        "model": MODEL,
        "status": "completed",
        "outputs": ["https://cdn.example.com/1.jpeg?signature=s3cret"],
        "has_nsfw_contents": [True],
        "created_at": "2026-01-01T00:00:00.123456789Z",
        "executionTime": 2345,
        "input": {"image": "https://example.com/in.jpg?signature=s3cret"},
    }
)


def test_a_sealed_prediction_comes_out_as_it_was_but_for_its_inputs() -> None:
    assert unseal(seal(ENDED, SECRET), SecretStr(SECRET)).prediction == ENDED.model_copy(
        update={"input": None}
    )


def test_a_sealed_prediction_cannot_be_read() -> None:
    sealed = seal(ENDED, SECRET)
    assert "cdn" not in sealed
    assert b"cdn" not in base64.urlsafe_b64decode(sealed)


@pytest.mark.parametrize(
    "text",
    ["", "x", "p1", "\ud800", '{"id": "p1", "status": "completed"}', "gAAAAAB" + "A" * 93, "A" * 100_000],
)
def test_what_was_not_sealed_is_not_believed(text: str) -> None:
    with pytest.raises(BadSealError):
        unseal(text, SECRET)


def test_what_was_sealed_with_another_secret_is_not_believed() -> None:
    with pytest.raises(BadSealError):
        unseal(seal(ENDED, "whsec_another"), SECRET)


def test_a_changed_seal_is_not_believed() -> None:
    sealed = seal(ENDED, SECRET)
    middle = len(sealed) // 2
    with pytest.raises(BadSealError):
        unseal(sealed[:middle] + ("A" if sealed[middle] != "A" else "B") + sealed[middle + 1 :], SECRET)


@pytest.mark.parametrize("seconds", [3700, -120])
def test_a_seal_of_long_ago_or_of_the_future_is_not_believed(seconds: float) -> None:
    with time_machine.travel(NOW, tick=False):
        sealed = seal(ENDED, SECRET)
    with time_machine.travel(NOW + seconds, tick=False), pytest.raises(BadSealError):
        unseal(sealed, SECRET)


def test_a_seal_holds_for_an_hour_and_clocks_may_differ_by_a_minute() -> None:
    with time_machine.travel(NOW, tick=False):
        sealed = seal(ENDED, SECRET)
    for seconds in (3590, -50):
        with time_machine.travel(NOW + seconds, tick=False):
            assert unseal(sealed, SECRET).prediction.id == "p1"


def test_outputs_that_are_no_urls_are_left_for_the_result_call() -> None:
    """Base64 outputs may be megabytes; a completed prediction without outputs is asked for again."""
    picture = base64.b64encode(b"\xff\xd8\xff" + b"0" * 5000).decode()
    body = json.dumps({"id": "p1", "status": "completed", "outputs": [picture]}).encode()
    prediction = verify_webhook(signed(body), body, SECRET, now=NOW)
    sealed = seal(prediction, SECRET)
    assert len(sealed) < 1000
    assert unseal(sealed, SECRET).prediction.outputs == []


def test_an_empty_secret_seals_nothing() -> None:
    with pytest.raises(ConfigurationError, match="webhook secret is empty"):
        seal(ENDED, "whsec_")
    with pytest.raises(ConfigurationError, match="webhook secret is empty"):
        unseal(seal(ENDED, SECRET), " ")
