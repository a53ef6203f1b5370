"""Amazon SNS: what its envelope holds, once it is sure that SNS sealed it."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import load_pem_x509_certificate

from prefect_wavespeed.deployments.receiver.notifications import NotUnderstoodError
from prefect_wavespeed.errors import RestyleError

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets what an https URL holds; raises `UnavailableError` where that fails."""

_HOST = r"https://sns\.[a-z0-9-]{3,32}\.amazonaws\.com(\.cn)?"
# nothing but the certificates' own path: an API of the same host might be made to answer with another's
_CERTIFICATE = re.compile(_HOST + r"/SimpleNotificationService-[0-9A-Za-z]+\.pem")
_CONFIRMATION = re.compile(_HOST + r"/\?Action=ConfirmSubscription&[!-~]+")

_HASHES = {"1": SHA1, "2": SHA256}
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"
    ),
}  # fmt: skip
_SIGNED["UnsubscribeConfirmation"] = _SIGNED["SubscriptionConfirmation"]
_KEPT = 16  # certificates; SNS has one for some months


class ForgedError(RestyleError):
    """Amazon SNS has not signed this."""


def is_envelope(message: dict[str, Any]) -> bool:
    """Whether a message came through SNS, or says so."""
    kind = message.get("Type")
    return isinstance(kind, str) and kind in _SIGNED and "TopicArn" in message


class Sns:
    """Verifies envelopes by the certificates that SNS publishes, and confirms subscriptions."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: dict[str, RSAPublicKey] = {}

    async def verify(self, envelope: dict[str, Any]) -> None:
        """Make sure that SNS signed the envelope, with signature version 1 or 2.

        Raises:
            ForgedError: it did not.
            NotUnderstoodError: the envelope is none.
            UnavailableError: its certificate cannot be fetched now.
        """
        kind = text(envelope, "Type")
        signed = [(name, text(envelope, name)) for name in _SIGNED[kind] if name != "Subject"]
        if envelope.get("Subject") is not None and kind == "Notification":
            signed = sorted([*signed, ("Subject", text(envelope, "Subject"))])
        algorithm = _HASHES.get(text(envelope, "SignatureVersion"))
        if algorithm is None:
            raise NotUnderstoodError("the SNS envelope's SignatureVersion is neither 1 nor 2")
        try:
            signature = base64.b64decode(text(envelope, "Signature"), validate=True)
            data = "".join(f"{name}\n{value}\n" for name, value in signed).encode()
            key = await self._key(text(envelope, "SigningCertURL"))
            key.verify(signature, data, PKCS1v15(), algorithm())
        except (InvalidSignature, ValueError):  # ValueError: no base64, lone surrogates
            raise ForgedError("the SNS envelope's signature does not match") from None

    async def confirm(self, envelope: dict[str, Any]) -> None:
        """Confirm the subscription that a verified envelope asks to confirm.

        Raises:
            ForgedError: its SubscribeURL is not SNS's.
            UnavailableError: it cannot be confirmed now.
        """
        url = text(envelope, "SubscribeURL")
        if not _CONFIRMATION.fullmatch(url):
            raise ForgedError("the SubscribeURL is not https://sns.REGION.amazonaws.com")
        await self._fetch(url)

    async def _key(self, url: str) -> RSAPublicKey:
        if not _CERTIFICATE.fullmatch(url):
            raise ForgedError("the SigningCertURL is not https://sns.REGION.amazonaws.com")
        if url not in self._keys:
            key = load_pem_x509_certificate(await self._fetch(url)).public_key()
            if not isinstance(key, RSAPublicKey):
                raise ForgedError("the SNS certificate holds no RSA key")
            if len(self._keys) >= _KEPT:
                self._keys.clear()
            self._keys[url] = key
        return self._keys[url]


def text(envelope: dict[str, Any], name: str) -> str:
    """A field of the envelope that must be text.

    Raises:
        NotUnderstoodError: it is not.
    """
    value = envelope.get(name)
    if not isinstance(value, str):
        raise NotUnderstoodError(f"no SNS envelope: {name} is missing or no text")
    return value
