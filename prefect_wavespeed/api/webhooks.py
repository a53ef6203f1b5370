"""Telling WaveSpeedAI's webhooks from everybody else's, and handing them on where others can read."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import ConfigurationError, RestyleError

ENDED = "wavespeed.prediction.ended"
"""The event that the receiver makes of a webhook, and that runs listen for."""

_SIGNATURE = re.compile(r"v3,([0-9a-fA-F]{64})")
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)


class WebhookError(RestyleError):
    """A webhook that must not be believed."""


class MissingHeaderError(WebhookError):
    """One of the three headers is missing, or is not what it should be."""


class StaleWebhookError(WebhookError):
    """It was sent too long ago, or in the future."""


class BadSignatureError(WebhookError):
    """It was not signed with this secret, or was changed on its way."""


class BadPayloadError(WebhookError):
    """It is signed, but holds no prediction."""


class BadSealError(WebhookError):
    """A sealed prediction that was not sealed with this secret, was changed, or is too old."""


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secret: str | SecretStr,
    *,
    now: float | None = None,
    tolerance: float = 300,
) -> Prediction:
    """Return the prediction that a webhook tells of, once it is sure that WaveSpeedAI sent it.

    Signed is ``{webhook-id}.{webhook-timestamp}.{raw body}``, with HMAC-SHA256 and the secret without
    its ``whsec_`` (WaveSpeedAI v3 API). The same webhook may come more than once.

    Args:
        headers: the request's headers, in any case.
        body: the request's body as it came, not decoded and encoded again.
        secret: what ``WaveSpeedClient.webhook_secret`` returned.
        now: Unix seconds; the clock's by default.
        tolerance: seconds that the webhook may be older or newer than that.

    Raises:
        WebhookError: one of its subclasses, for each way to be bad.
        ConfigurationError: the secret is empty.
    """
    key = _key(secret)
    given = {name.lower(): value.strip() for name, value in headers.items()}
    try:
        name, sent, signature = (given[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
    except KeyError as missing:
        raise MissingHeaderError(f"the webhook has no header {missing.args[0]}") from None
    signatures = _SIGNATURE.findall(signature)
    if not name or not signatures or not _SECONDS.fullmatch(sent):
        raise MissingHeaderError("the webhook's headers are malformed")

    # surrogateescape: what a server decoded from odd bytes becomes the same bytes again
    signed = f"{name}.{sent}.".encode("utf-8", "surrogateescape") + body
    expected = hmac.new(key, signed, sha256).hexdigest()
    if not any(hmac.compare_digest(expected, each.lower()) for each in signatures):
        raise BadSignatureError("the webhook's signature does not match")
    if abs((time.time() if now is None else now) - int(sent)) > tolerance:
        raise StaleWebhookError(f"the webhook is more than {tolerance:g} s old or early")
    try:
        return Prediction.model_validate(json.loads(body), context={})
    except ValueError:
        pass
    raise BadPayloadError("the webhook is signed, but holds no prediction")


def seal(prediction: Prediction, secret: str | SecretStr) -> str:
    """Encrypt and sign a prediction, for ``unseal``: what carries it can neither read it nor make one up.

    Left out are the inputs, and outputs that are not URLs: whoever wants those has to ask the API.

    Args:
        prediction: what a webhook told.
        secret: the webhook secret, which both sides get from WaveSpeedAI.

    Raises:
        ConfigurationError: the secret is empty.
    """
    told = prediction.model_dump(mode="json", exclude={"input"})
    if not all(urlsplit(output).scheme in ("https", "http") for output in prediction.outputs):
        told["outputs"] = []
    return _seal(secret).encrypt(json.dumps(told).encode()).decode()


def unseal(text: str, secret: str | SecretStr, *, tolerance: int = 3600) -> Prediction:
    """Return the prediction that ``seal`` was given.

    Args:
        text: what ``seal`` returned.
        secret: the webhook secret.
        tolerance: seconds ago that it may have been sealed. It may be a minute early, for clocks that differ.

    Raises:
        BadSealError: it was not sealed with this secret, was changed, or is too old.
        BadPayloadError: it is sealed, but holds no prediction.
        ConfigurationError: the secret is empty.
    """
    seal = _seal(secret)
    try:
        told = seal.decrypt(text.encode("utf-8", "replace"), ttl=tolerance)
    except InvalidToken:
        raise BadSealError("not sealed with this account's webhook secret, or too long ago") from None
    try:
        return Prediction.model_validate_json(told)
    except ValueError:
        pass
    raise BadPayloadError("what is sealed is no prediction")


def _key(secret: str | SecretStr) -> bytes:
    secret = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    key = secret.strip().removeprefix("whsec_").encode()
    if not key:
        raise ConfigurationError("the webhook secret is empty")
    return key


def _seal(secret: str | SecretStr) -> Fernet:
    # a key of its own: what is sealed can never pass for what WaveSpeedAI has signed
    derived = HKDF(SHA256(), length=32, salt=None, info=b"wavespeed.prediction.ended").derive(_key(secret))
    return Fernet(base64.urlsafe_b64encode(derived))
