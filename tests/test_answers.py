"""What is made of an answer, once it has been received: no sockets here."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import BaseModel

from prefect_wavespeed import errors
from prefect_wavespeed.api.answers import (
    Balance,
    Deleted,
    Price,
    Reply,
    UnitPrice,
    Upload,
    WebhookSecret,
    read_answer,
    refusal,
)
from prefect_wavespeed.api.billing import BillingsPage
from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.api.predictions import HistoryPage, Prediction

KEY = "canary-2f6d1c9e8b7a4053"
CREATED = {"id": "p1", "model": MODEL, "status": "created"}
SHAPES: list[type[BaseModel]] = [
    Balance,
    BillingsPage,
    Deleted,
    HistoryPage,
    Prediction,
    Price,
    UnitPrice,
    Upload,
    WebhookSecret,
]


def redact(text: object) -> str:
    return errors.redact(text, KEY)


def read(shape: type[BaseModel], status: int | None = 200, body: Any = None, **more: Any) -> Any:
    reply = Reply(status=status, body=body, **more)
    return read_answer(reply, shape, call="GET /x", redact=redact, prediction_id="p1")


def envelope(data: Any = None, *, code: int = 200, message: str = "success") -> dict[str, Any]:
    return {"code": code, "message": message, "data": data}


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "size: out of range", errors.InvalidRequestError),
        (400, "Insufficient credits. Please top up", errors.InsufficientCreditsError),
        (400, "cannot read https://example.com/credits.jpg", errors.InvalidRequestError),
        (401, "bad key", errors.AuthenticationError),
        (402, "pay", errors.InsufficientCreditsError),
        (403, "role", errors.AuthenticationError),
        (403, "low balance", errors.InsufficientCreditsError),
        (404, "no model", errors.NotFoundError),
        (422, "no", errors.InvalidRequestError),
        (429, "slow down", errors.RateLimitedError),
        (1300, "no credit", errors.InsufficientCreditsError),
        (1400, "missing", errors.InvalidRequestError),
        (1402, "cannot fetch the image", errors.InvalidRequestError),
    ],
)
def test_a_clear_refusal_has_an_error_of_its_own(
    status: int, message: str, kind: type[errors.RestyleError]
) -> None:
    assert type(refusal(status, message)) is kind
    in_envelope = envelope(code=status, message=message)
    for shape in SHAPES:
        with pytest.raises(errors.RestyleError) as caught:
            read(shape, 200, in_envelope)
        assert type(caught.value) is kind
        assert message.split(" http")[0] in caught.value.message
        assert caught.value.prediction_id == "p1"


@pytest.mark.parametrize("status", [None, 200, 301, 307, 408, 425, 500, 502, 503, 504, 1200, 5000, 5004])
def test_any_other_answer_refuses_nothing(status: int | None) -> None:
    assert refusal(status, "could not read credits" if status and status < 1000 else "oops") is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (301, None),
        (307, None),
        (408, None),
        (500, envelope(code=500, message="could not read credits")),
        (503, {}),
        (504, None),
        (200, envelope(code=500)),
        (200, envelope(code=5004)),
        (200, None),
        (200, [1]),
        (200, {"code": 200, "message": "success"}),
        (200, envelope({"status": "created"})),
        (200, envelope({"id": "", "status": "created"})),
        (200, envelope({"price": "much", "unit_price": -1, "balance": float("nan"), "download_url": ""})),
        (200, envelope({"price": float("inf"), "balance": None, "unit_price": {}, "secret": ""})),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_answer_that_leaves_doubt_is_unavailable(shape: type[BaseModel], status: int, body: Any) -> None:
    with pytest.raises(errors.UnavailableError) as caught:
        read(shape, status, body, retry_after=3.0)
    assert caught.value.retryable
    assert caught.value.sent
    assert caught.value.retry_after == 3
    assert caught.value.message.startswith("WaveSpeed is not available (GET /x, HTTP ")


def test_no_answer_is_unavailable_and_says_whether_anything_was_sent() -> None:
    for sent in (True, False):
        with pytest.raises(errors.UnavailableError, match=r"\(GET /x, no answer\): timed out$") as caught:
            read(Balance, None, failure="timed out", sent=sent)
        assert (caught.value.sent, caught.value.status) == (sent, None)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_refusal_may_say_when_to_ask_again(shape: type[BaseModel]) -> None:
    with pytest.raises(errors.RateLimitedError) as caught:
        read(shape, 429, None, retry_after=7.0)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [200, 302, 400, 401, 402, 403, 422, 429, 500, 503])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_that_echoes_the_key_does_not_spread_it(shape: type[BaseModel], status: int) -> None:
    message = f"no luck with Authorization: Bearer {KEY}, key={KEY}"
    with pytest.raises(errors.RestyleError) as caught:
        read(shape, status, envelope(code=max(status, 500), message=message))
    assert "no luck with Authorization: Bearer ***" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (504, envelope({**CREATED, "status": "processing"}, code=5004, message="timeout")),
        (200, envelope({**CREATED, "status": "processing"}, code=5004)),
        (500, envelope({**CREATED, "status": "failed", "error": "oops", "code": 5000}, code=500)),
        (200, CREATED),
        (200, envelope({**CREATED, "created_at": "yesterday", "timings": 3, "outputs": "none yet"})),
    ],
)
def test_an_answer_with_an_id_is_a_prediction_whatever_else_it_says(status: int, body: Any) -> None:
    assert read(Prediction, status, body).id == "p1"


def test_a_refusal_with_an_id_is_a_refusal() -> None:
    with pytest.raises(errors.InvalidRequestError):
        read(Prediction, 400, envelope({"id": "x"}, code=400))


def test_an_id_beside_an_error_is_a_gateways_own() -> None:
    with pytest.raises(errors.UnavailableError):
        read(Prediction, 504, {"id": "request-17", "message": "gateway timeout"})


def test_a_failed_prediction_that_echoes_the_key_does_not_spread_it() -> None:
    failed = {**CREATED, "status": "failed", "error": f"key {KEY} has no luck"}
    assert read(Prediction, 200, envelope(failed)).error == "key *** has no luck"


def test_base64_outputs_are_moved_out_and_urls_left_alone() -> None:
    outputs = ["picture-1", "https://example.com/2.png", base64.b64encode(b"short").decode()]
    completed = envelope({**CREATED, "status": "completed", "outputs": outputs})
    prediction = read(Prediction, 200, completed, pictures={"picture-1": b"long"})
    assert prediction.outputs == ["inline:0", "https://example.com/2.png", "inline:2"]
    assert [prediction.inline(output) for output in prediction.outputs] == [b"long", None, b"short"]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("property 'num_images' must be at most 4", "num_images"),
        ('invalid value for "size" of image', "size"),
        ("guidance_scale: out of range", "guidance_scale"),
        ("cannot read https://example.com/size/seed.jpg", None),
        ("bad request", None),
    ],
)
def test_an_invalid_request_names_the_field(message: str, field: str | None) -> None:
    error = refusal(400, message)
    assert isinstance(error, errors.InvalidRequestError)
    assert error.field == field
    assert not error.retryable


@pytest.mark.parametrize(
    ("quoted", "usd"),
    [
        ({"price": 0.05, "discounted_price": 0.04, "currency": "USD"}, 0.04),
        ({"price": 0.05, "discounted_price": None, "currency": None}, 0.05),
        ({"price": 0.05, "discounted_price": 0}, 0.0),
        ({"price": 0.05}, 0.05),
        ({"price": 0, "discounted_price": None}, 0.0),
    ],
)
def test_the_price_is_the_discounted_one_where_there_is_one(quoted: dict[str, Any], usd: float) -> None:
    assert read(Price, 200, envelope(quoted)).charged == usd
