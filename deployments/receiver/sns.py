"""Amazon SNS: envelopes of notifications, and whether SNS signed them."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable
from typing import Any

from cachetools import TTLCache
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import load_pem_x509_certificate

from prefect_wavespeed.deployments.receiver.notifications import InvalidNotificationError
from prefect_wavespeed.errors import RestyleError

Fetch = Callable[[str], Awaitable[bytes]]
"""Fetches an https URL; raises `UnavailableError` where that fails."""

# only regions: sns.s3.amazonaws.com is somebody's bucket
_HOST = r"https://sns\.[a-z]{2,5}(-[a-z]{2,12}){1,3}-[0-9]{1,2}\.amazonaws\.com(\.cn)?"
# only the certificates' path: an API on the same host might be made to return another certificate
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
_MAX_KEYS = 16  # in memory; SNS uses a certificate for some months
_KEY_SECONDS = 86_400.0


class ForgedError(RestyleError):
    """Amazon SNS has not signed this."""


def is_envelope(message: dict[str, Any]) -> bool:
    """Whether a message is an SNS envelope, or claims to be."""
    kind = message.get("Type")
    return isinstance(kind, str) and kind in _SIGNED and "TopicArn" in message


class SnsVerifier:
    """Verifies envelopes with the certificates that SNS publishes, and confirms subscriptions."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: TTLCache[str, RSAPublicKey] = TTLCache(_MAX_KEYS, ttl=_KEY_SECONDS)

    async def verify(self, envelope: dict[str, Any]) -> None:
        """Check that SNS signed the envelope, with signature version 1 or 2.

        Raises:
            ForgedError: it did not.
            InvalidNotificationError: the envelope is incomplete.
            UnavailableError: its certificate cannot be fetched now.
        """
        kind = text_field(envelope, "Type")
        signed = [(name, text_field(envelope, name)) for name in _SIGNED[kind] if name != "Subject"]
        if envelope.get("Subject") is not None and kind == "Notification":
            signed = sorted([*signed, ("Subject", text_field(envelope, "Subject"))])
        algorithm = _HASHES.get(text_field(envelope, "SignatureVersion"))
        if algorithm is None:
            raise InvalidNotificationError("the SNS envelope has a SignatureVersion other than 1 and 2")
        try:
            signature = base64.b64decode(text_field(envelope, "Signature"), validate=True)
            data = "".join(f"{name}\n{value}\n" for name, value in signed).encode()
            key = await self._key(text_field(envelope, "SigningCertURL"))
            key.verify(signature, data, PKCS1v15(), algorithm())
        except (InvalidSignature, ValueError):  # ValueError: invalid base64, lone surrogates
            raise ForgedError("the SNS envelope's signature does not match") from None

    async def confirm(self, envelope: dict[str, Any]) -> None:
        """Confirm the subscription that a verified envelope announces.

        Raises:
            ForgedError: its SubscribeURL is not SNS's.
            UnavailableError: it cannot be confirmed now.
        """
        url = text_field(envelope, "SubscribeURL")
        if not _CONFIRMATION.fullmatch(url):
            raise ForgedError("the SubscribeURL is not https://sns.REGION.amazonaws.com")
        await self._fetch(url)

    async def _key(self, url: str) -> RSAPublicKey:
        if not _CERTIFICATE.fullmatch(url):
            raise ForgedError("the SigningCertURL is not https://sns.REGION.amazonaws.com")
        found = self._keys.get(url)
        if found is None:
            key = load_pem_x509_certificate(await self._fetch(url)).public_key()
            if not isinstance(key, RSAPublicKey):
                raise ForgedError("the SNS certificate has no RSA key")
            self._keys[url] = found = key
        return found


def text_field(envelope: dict[str, Any], name: str) -> str:
    """Return a field of the envelope that has to be text.

    Raises:
        InvalidNotificationError: it is missing, or something else.
    """
    value = envelope.get(name)
    if not isinstance(value, str):
        raise InvalidNotificationError(f"not an SNS envelope: {name} is missing or not text")
    return value
