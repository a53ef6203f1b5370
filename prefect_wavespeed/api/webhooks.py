"""Verifying WaveSpeedAI's webhooks, and sealing them for channels that others can read."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from prefect_wavespeed.api.base64_stream import decode_json
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import ConfigurationError, RestyleError

ENDED = "wavespeed.prediction.ended"
"""The event that the receiver emits for a webhook, and that runs subscribe to."""

_SIGNATURE = re.compile(r"v3,([0-9a-fA-F]{64})")
_JOB_KEY = re.compile(r"[0-9a-f]{64}")
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)


class WebhookError(RestyleError):
    """A webhook that must not be trusted."""


class MissingHeaderError(WebhookError):
    """One of the three headers is missing or malformed."""


class StaleWebhookError(WebhookError):
    """It is older than the tolerance, or dated in the future."""


class BadSignatureError(WebhookError):
    """It was not signed with this secret, or was changed in transit."""


class BadPayloadError(WebhookError):
    """Its signature is good, but its body is not a prediction."""


class BadSealError(WebhookError):
    """A prediction that was not sealed with this secret, was changed, or is too old."""


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes,
    secret: str | SecretStr,
    *,
    now: float | None = None,
    tolerance: float = 300,
) -> Prediction:
    """Return the prediction of a webhook after making sure that WaveSpeedAI sent it.

    By the vendor's documentation the signature is HMAC-SHA256 over ``{webhook-id}.{webhook-timestamp}.{raw
    body}``, its key the secret without ``whsec_``, and the same webhook may be delivered more than once.

    Args:
        headers: the request's headers, in upper or lower case.
        body: the request's raw body, not decoded and encoded again.
        secret: what ``WaveSpeedClient.webhook_secret`` returned.
        now: Unix seconds; by default the current time.
        tolerance: seconds by which the webhook may be older or newer than ``now``.

    Raises:
        WebhookError: one of its subclasses, by what is wrong.
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

    # surrogateescape: header bytes that are not UTF-8 become the same bytes again
    signed = f"{name}.{sent}.".encode("utf-8", "surrogateescape") + body
    expected = hmac.new(key, signed, sha256).hexdigest()
    if not any(hmac.compare_digest(expected, each.lower()) for each in signatures):
        raise BadSignatureError("the webhook's signature does not match")
    if abs((time.time() if now is None else now) - int(sent)) > tolerance:
        raise StaleWebhookError(f"the webhook is more than {tolerance:g} s old or early")
    try:
        return Prediction.model_validate(decode_json(body), context={})
    except ValueError:
        pass
    raise BadPayloadError("the webhook's body is not a prediction")


class WebhookNotice(NamedTuple):
    """What a webhook reports.

    Attributes:
        prediction: the prediction that has ended.
        job_key: the job that the webhook's URL names; empty for none. WaveSpeedAI does not sign it.
    """

    prediction: Prediction
    job_key: str = ""


def seal(prediction: Prediction, secret: str | SecretStr, job_key: str = "") -> str:
    """Encrypt and sign a prediction for ``unseal``: the channel between can neither read nor forge it.

    Inputs, and outputs that are not URLs, are left out: the API has them.

    Args:
        prediction: the prediction of a webhook.
        secret: the webhook secret, which both sides get from WaveSpeedAI.
        job_key: the job that the webhook's URL names; empty for none.

    Raises:
        ConfigurationError: the secret is empty.
    """
    fields = prediction.model_dump(mode="json", exclude={"input"})
    if not all(urlsplit(output).scheme in ("https", "http") for output in prediction.outputs):
        fields["outputs"] = []
    answer = {name: value for name, value in prediction.answer.items() if name not in ("input", "inputs")}
    sealed = {
        "prediction": fields,
        "answer": answer,
        "job_key": job_key if _JOB_KEY.fullmatch(job_key) else "",
    }
    return _seal(secret).encrypt(json.dumps(sealed).encode()).decode()


def unseal(text: str, secret: str | SecretStr, *, tolerance: int = 3600) -> WebhookNotice:
    """Return what ``seal`` was given.

    Args:
        text: what ``seal`` returned.
        secret: the webhook secret.
        tolerance: how many seconds ago it may have been sealed. It may be dated a minute ahead.

    Raises:
        BadSealError: it was not sealed with this secret, was changed, or is too old.
        BadPayloadError: the sealed text is not a prediction.
        ConfigurationError: the secret is empty.
    """
    seal = _seal(secret)
    try:
        sealed = seal.decrypt(text.encode("utf-8", "replace"), ttl=tolerance)
    except InvalidToken:
        raise BadSealError("it was not sealed with this account's webhook secret, or too long ago") from None
    try:
        fields = json.loads(sealed)
        prediction = Prediction.model_validate(fields["prediction"]).with_answer(fields["answer"])
        return WebhookNotice(prediction, str(fields["job_key"]))
    except (ValueError, LookupError, TypeError):
        pass
    raise BadPayloadError("the sealed text is not a prediction")


def _key(secret: str | SecretStr) -> bytes:
    secret = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    key = secret.strip().removeprefix("whsec_").encode()
    if not key:
        raise ConfigurationError("the webhook secret is empty")
    return key


def _seal(secret: str | SecretStr) -> Fernet:
    # a key of its own: a seal can never pass for a signature of WaveSpeedAI
    derived = HKDF(SHA256(), length=32, salt=None, info=b"wavespeed.prediction.ended").derive(_key(secret))
    return Fernet(base64.urlsafe_b64encode(derived))
