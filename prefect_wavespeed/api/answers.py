"""Answers of the API: the envelope around them, the shape of their data, and the error for each refusal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, SecretStr

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    RestyleError,
    UnavailableError,
)

_Shape = TypeVar("_Shape", bound=BaseModel)

# The vendor reports missing credits by text alone: as a 400, among other statuses.
_CREDITS = re.compile(r"(?i)\bcredits?\b|\b(insufficient|low|no|not enough) (balance|funds)\b|\btop.?up\b")
_URL = re.compile(r"https?://\S+")
_FIELD = r"\b({})\b".format("|".join(sorted(ReduxRequest.model_fields, key=len, reverse=True)))
_QUOTED_FIELD = re.compile(f"[\"'`]{_FIELD}[\"'`]")
_NAMED_FIELD = re.compile(_FIELD)

_BAD_PARAMETER = (1400, 1401, 1402)  # WaveSpeed's own codes, where an envelope holds one instead of 400


@dataclass
class Reply:
    """What came back from one request to the API.

    Attributes:
        status: the HTTP status; None where there was no answer.
        retry_after: seconds to wait, as the answer says; None where it does not.
        body: the decoded JSON document.
        pictures: base64 pictures of the document, by the marks that stand for them in it.
        failure: why there is no answer, or none that is whole and readable; redacted.
        sent: False when no connection was established, so that nothing can have reached the API.
    """

    status: int | None = None
    retry_after: float | None = None
    body: Any = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    failure: str | None = None
    sent: bool = True


class Deleted(BaseModel):
    """Answer of the delete call."""

    deleted_count: int


class Balance(BaseModel):
    """Answer of the balance call, in USD."""

    balance: FiniteFloat


class Price(BaseModel):
    """Answer of the price call."""

    price: FiniteFloat = Field(ge=0)
    discounted_price: FiniteFloat | None = Field(default=None, ge=0)
    currency: str | None = None

    @property
    def charged(self) -> float:
        """What is charged: the discounted price, which may be 0, where there is one."""
        return self.price if self.discounted_price is None else self.discounted_price


class UnitPrice(BaseModel):
    """Answer of the older price call, for one picture."""

    unit_price: FiniteFloat = Field(ge=0)
    currency: str | None = None


class Upload(BaseModel):
    """Answer of the upload call."""

    download_url: str = Field(min_length=1)


class WebhookSecret(BaseModel):
    """Answer of the webhook secret call."""

    secret: SecretStr = Field(min_length=1)


def read_answer(
    reply: Reply,
    shape: type[_Shape],
    *,
    call: str,
    redact: Callable[[object], str],
    prediction_id: str | None = None,
) -> _Shape:
    """Return the data of an answer.

    Args:
        reply: what came back.
        shape: what its data must be.
        call: method and path, for the error's message.
        redact: makes a text safe to show; an answer may echo the key.
        prediction_id: the prediction that was asked for, for the error.

    Raises:
        RestyleError: the error for the refusal, or UnavailableError where the answer leaves it open whether
            the call was carried out.
    """
    envelope = reply.body if isinstance(reply.body, dict) else {}
    data = envelope.get("data", envelope)
    # A prediction with an id exists, whatever code stands around it (a 504 or a 5004 in sync mode).
    # An id beside an error, outside of ``data``, is a gateway's own.
    exists = shape is Prediction and isinstance(data, dict) and bool(data.get("id"))
    exists = exists and (_is_success(reply.status) or "data" in envelope)
    status, failure = reply.status, reply.failure
    if _is_success(status) and not exists:
        status = _code(envelope) or status
    if failure is None and (_is_success(status) or (exists and status is not None and status >= 500)):
        try:
            return shape.model_validate(data, context={"pictures": reply.pictures, "redact": redact})
        except ValueError:
            failure = "the answer does not match the API's documentation"

    if status is not None and not _is_success(status):
        failure = envelope.get("message") or "no explanation"
    reason = redact(failure)
    error = refusal(status, reason)
    if error is None:
        outcome = f"HTTP {status}" if status else "no answer"
        error = UnavailableError(
            f"WaveSpeed is not available ({call}, {outcome}): {reason}", status=status, sent=reply.sent
        )
    if isinstance(error, RateLimitedError | UnavailableError):
        error.retry_after = reply.retry_after
    error.prediction_id = prediction_id
    raise error


def refusal(status: int | None, reason: str) -> RestyleError | None:
    """Return the error for an answer that says clearly that nothing was done; None for any other.

    Args:
        status: the HTTP status, or the code of the envelope where that reports a problem.
        reason: the vendor's explanation.
    """
    match status:
        case 429:
            return RateLimitedError(f"WaveSpeed asks to slow down (429): {reason}")
        case 401:
            return AuthenticationError(f"WaveSpeed refused the API key (401): {reason}")
        case 404:
            return NotFoundError(f"WaveSpeed knows no such prediction or model (404): {reason}")
        case 402:
            return InsufficientCreditsError(f"top up the WaveSpeed account (402): {reason}")
        case None | 408 | 425:
            return None
        case _ if (400 <= status < 500 or 1000 <= status < 2000) and _CREDITS.search(_URL.sub("", reason)):
            return InsufficientCreditsError(f"top up the WaveSpeed account ({status}): {reason}")
        case 403:
            return AuthenticationError(f"the WaveSpeed key's account may not do this (403): {reason}")
        case _ if 400 <= status < 500 or status in _BAD_PARAMETER:
            named = _QUOTED_FIELD.search(reason) or _NAMED_FIELD.search(_URL.sub("", reason))
            return InvalidRequestError(
                f"WaveSpeed refused the request ({status}): {reason}", field=named[1] if named else None
            )
    return None


def _is_success(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _code(envelope: Mapping[str, Any]) -> int | None:
    """The envelope's code where it reports a problem: answers with HTTP 200 may have one."""
    code = envelope.get("code")
    return code if isinstance(code, int) and code not in (0, 200) else None
