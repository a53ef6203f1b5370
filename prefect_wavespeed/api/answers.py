"""Answers of the API: the envelope around them, and the shape of their data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, SecretStr, ValidationError, model_validator

from prefect_wavespeed.api.predictions import STATUSES, Prediction
from prefect_wavespeed.api.refusals import codes_of, explanation_of, refusal, says_unknown
from prefect_wavespeed.errors import NotFoundError, RateLimitedError, UnavailableError

_Shape = TypeVar("_Shape", bound=BaseModel)


@dataclass
class Reply:
    """What came back from one request to the API.

    Attributes:
        status: the HTTP status; None where there was no answer.
        retry_after: seconds to wait, as the answer says; None where it does not.
        limits: names of the headers that say something about rate limits, in lower case.
        body: the decoded JSON document.
        pictures: base64 pictures of the document, by the marks that stand for them in it.
        failure: why there is no answer, or none that is whole and readable; redacted.
        sent: False when no connection was established, so that nothing can have reached the API.
    """

    status: int | None = None
    retry_after: float | None = None
    limits: frozenset[str] = frozenset()
    body: Any = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    failure: str | None = None
    sent: bool = True


class Deleted(BaseModel):
    """Answer of the delete call; null says that it was done, but not how many."""

    deleted_count: int | None

    @model_validator(mode="before")
    @classmethod
    def _null_is_unknown(cls, value: Any) -> Any:
        return {"deleted_count": None} if value is None else value


class Balance(BaseModel):
    """Answer of the balance call, in USD."""

    balance: FiniteFloat


class Price(BaseModel):
    """Answer of the price call."""

    price: FiniteFloat | None = Field(default=None, ge=0)
    unit_price: FiniteFloat | None = Field(default=None, ge=0)
    discounted_price: FiniteFloat | None = Field(default=None, ge=0)
    currency: str | None = None

    @model_validator(mode="after")
    def _has_a_price(self) -> Price:
        if self.price is None and self.unit_price is None:
            raise ValueError("it has no price")
        return self

    @property
    def charged(self) -> float | None:
        """What the request is charged: the discounted price, which may be 0, where there is one."""
        return self.price if self.discounted_price is None else self.discounted_price


class UnitPrice(BaseModel):
    """Answer of the older price call, for one picture."""

    unit_price: FiniteFloat = Field(ge=0)
    currency: str | None = None


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
        prediction_id: the prediction that was asked for; None where the call asks for none.

    Raises:
        RestyleError: the error for the refusal, or UnavailableError where the answer leaves it open whether
            the call was carried out.
    """
    body, status, failure = reply.body, reply.status, reply.failure
    if shape is Prediction:
        data = _find_prediction(body, _is_error(status, body), asked_for=prediction_id)
    elif _is_success(status):
        data = body.get("data", body) if isinstance(body, dict) else body
    else:
        data = None
    codes = codes_of(body)
    if _is_success(status) and codes and (data is None or shape is not Prediction):
        status, data = codes[0], None
    if failure is None and (data is not None or _is_success(status)):
        try:
            found = shape.model_validate(data, context={"pictures": reply.pictures, "redact": redact})
            if not isinstance(found, Prediction) or prediction_id in (None, found.id):
                return found
            failure = f"asked for prediction {prediction_id}, it answered with {found.id}"
        except ValidationError:
            came = "a secret" if shape is WebhookSecret else json.dumps(body)[:2000]
            failure = f"the answer does not match the API's documentation: {came}"

    if status is not None and not _is_success(status):
        failure = explanation_of(body) or "no explanation"
    reason = redact(failure)
    if (seconds := reply.retry_after or 0.0) >= 60:
        reason += f" (it asks to wait for {seconds:,.0f} s)"
    error = refusal(status, reason, codes)
    if prediction_id is not None and shape is Prediction:
        if says_unknown(status, body, prediction_id):
            error = NotFoundError(
                f"WaveSpeed does not know this prediction ({status}): {reason}", status=status
            )
        elif isinstance(error, NotFoundError):  # a gateway's own page
            error = None
    if error is None:
        outcome = f"HTTP {status}" if status else "no answer"
        error = UnavailableError(
            f"WaveSpeed is not available ({call}, {outcome}): {reason}", status=status, sent=reply.sent
        )
    if isinstance(error, RateLimitedError | UnavailableError):
        error.retry_after = reply.retry_after
    error.prediction_id = prediction_id
    raise error


def _find_prediction(body: Any, is_error: bool, *, asked_for: str | None) -> dict[str, Any] | None:
    """The prediction that an answer bears, whatever is around it.

    One with an id exists, and may be billed, also where the status is an error's. But an id beside an error
    may be a gateway's own, and an answer about an id may repeat it.
    """
    if not isinstance(body, dict):
        return None
    for name in ("data", "task", "prediction", "error", "detail"):
        inner = body.get(name)
        is_envelope = name in ("data", "task", "prediction")
        if found := _find_prediction(inner, is_error or not is_envelope, asked_for=asked_for):
            return found
        if asked_for is None and is_envelope and isinstance(inner, dict) and _id_of(inner):
            return inner
    if not _id_of(body):
        return None
    if is_error and asked_for is not None:
        return body if _id_of(body) == asked_for and _has_status(body) else None
    looks_like_one = _has_status(body) or any(body.get(name) for name in ("model", "urls", "outputs"))
    return body if looks_like_one or not is_error else None


def _id_of(body: dict[str, Any]) -> str:
    found = body.get("id")
    return str(found).strip() if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _has_status(body: dict[str, Any]) -> bool:
    return isinstance(body.get("status"), str) and body["status"] in STATUSES


def _is_error(status: int | None, body: Any) -> bool:
    reports = isinstance(body, dict) and bool(codes_of(body) or body.get("error") or body.get("errors"))
    return reports or not _is_success(status)


def _is_success(status: int | None) -> bool:
    return status is not None and 200 <= status < 300
