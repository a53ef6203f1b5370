"""What is made of an answer, once it has been received: no sockets here."""

from __future__ import annotations

import base64
import json
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
    WebhookSecret,
    read_answer,
)
from prefect_wavespeed.api.billing import BillingsPage
from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.api.predictions import HistoryPage, Prediction, Unnamed
from prefect_wavespeed.api.refusals import refusal

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
    WebhookSecret,
]


def redact(text: object) -> str:
    return errors.redact(text, KEY)


def read(
    shape: type[BaseModel],
    status: int | None = 200,
    body: Any = None,
    *,
    asked_for: str | None = "p1",
    **more: Any,
) -> Any:
    reply = Reply(status=status, body=body, **more)
    return read_answer(reply, shape, call="GET /x", redact=redact, prediction_id=asked_for)


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
        (1200, "content moderation", errors.InvalidRequestError),
        (1300, "no credit", errors.InsufficientCreditsError),
        (1400, "missing", errors.InvalidRequestError),
        (1402, "cannot fetch the image", errors.InvalidRequestError),
        (1407, "no", errors.InsufficientCreditsError),
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


@pytest.mark.parametrize("status", [None, 200, 301, 307, 408, 425, 500, 502, 503, 504, 1406, 5000, 5004])
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
        with pytest.raises(
            errors.UnavailableError, match=r"\(GET /x, no answer\): timed out \(prediction p1\)$"
        ) as caught:
            read(Balance, None, failure="timed out", sent=sent)
        assert (caught.value.sent, caught.value.status) == (sent, None)


def test_a_long_wait_that_is_asked_for_is_in_the_message() -> None:
    for status in (429, 503):
        with pytest.raises(errors.RestyleError, match=r"\(it asks to wait for 86,400 s\) \(prediction p1\)$"):
            read(Balance, status, {"message": "busy"}, retry_after=86_400.0)


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


PROCESSING = {**CREATED, "status": "processing"}
FAILED = {**CREATED, "status": "failed", "error": "oops", "code": 5000}


@pytest.mark.parametrize("asked_for", [None, "p1"], ids=["submit", "result"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (504, envelope(PROCESSING, code=5004, message="timeout")),
        (200, envelope(PROCESSING, code=5004)),
        (500, envelope(FAILED, code=500)),
        (400, envelope(FAILED, code=400)),
        (402, envelope(FAILED, code=1407, message="insufficient credits")),
        (429, envelope(CREATED, code=429)),
        (404, envelope({**FAILED, "status": "deleted"}, code=404, message="not found")),
        (200, CREATED),
        (500, FAILED),
        (400, {**FAILED, "message": "task failed"}),
        (200, FAILED),
        (200, {"task": CREATED}),
        (422, {"error": "refused", "task": FAILED}),
        (400, {"message": "refused", "prediction": FAILED}),
        (400, {"code": 400, "message": "refused", "data": {"task": FAILED}}),
        (500, {"error": {"message": "oops", "task": FAILED}}),
        (500, {"detail": FAILED}),
        (200, envelope({**CREATED, "created_at": "yesterday", "timings": 3, "outputs": "none yet"})),
    ],
)
def test_an_answer_with_a_prediction_is_one_whatever_else_it_says(
    status: int, body: Any, asked_for: str | None
) -> None:
    assert read(Prediction, status, body, asked_for=asked_for).id == "p1"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, envelope({"id": "p1"}, code=400)),
        (504, envelope({"id": "p1", "status": "waiting"}, code=5004)),
        (500, {"id": "p1", "urls": {"get": "https://example.com/p1"}}),
        (500, {"id": "p1", "model": MODEL, "message": "oops"}),
        (500, {"id": "p1", "outputs": ["https://example.com/1.jpeg"]}),
    ],
)
def test_a_refused_submission_with_an_id_was_made(status: int, body: Any) -> None:
    assert read(Prediction, status, body, asked_for=None).id == "p1"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (504, {"id": "request-17", "message": "gateway timeout"}, errors.UnavailableError),
        (502, {"id": "request-17", "status": 502}, errors.UnavailableError),
        (503, {"id": "request-17", "status": "error"}, errors.UnavailableError),
        (200, {"id": "request-17", "error": "gateway timeout"}, errors.UnavailableError),
        (400, {"id": "request-17", "message": "bad"}, errors.InvalidRequestError),
        (429, {"id": "request-17", "error": {"id": "e1", "message": "slow"}}, errors.RateLimitedError),
        (200, {"id": "request-17", "code": 1407}, errors.InsufficientCreditsError),
        (500, {"errors": [{"id": "e1", "status": "failed"}]}, errors.UnavailableError),
        (400, envelope({"id": " "}, code=400), errors.InvalidRequestError),
        (400, envelope({"id": True}, code=400), errors.InvalidRequestError),
    ],
)
def test_an_id_beside_an_error_is_a_gateways_own(
    status: int, body: Any, kind: type[errors.RestyleError]
) -> None:
    with pytest.raises(errors.RestyleError) as caught:
        read(Prediction, status, body, asked_for=None)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "text",
    ["Prediction not_found", "the task does not exist", "no such task", "no record with id p1: not found"],
)
@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_prediction_that_the_api_does_not_know_is_missing_by_its_text(status: int, text: str) -> None:
    bodies: list[Any] = [
        envelope(code=status, message=text),
        envelope({"id": "p1"}, code=status, message=text),
        {"id": "p1", "error": text},
        {"id": "p1", "detail": [{"loc": ["path", "id"], "msg": text}]},
        envelope({"id": "another", "status": "failed"}, code=status, message=text),
    ]
    for body in bodies:
        with pytest.raises(errors.NotFoundError, match=text) as caught:
            read(Prediction, status, body)
        assert caught.value.prediction_id == "p1"
    with pytest.raises(errors.NotFoundError):
        read(Prediction, 200, envelope(code=status, message=text))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, envelope(code=503, message="upstream not found")),
        (500, envelope(code=500, message="oops")),
        (500, None),
        (502, {"error": "no such host"}),
        (500, {"message": "dial tcp: lookup db-1: no such host"}),
        (500, envelope(code=500, message="record not found")),
        (500, {"message": "no such file or directory: /data/p1"}),
        (500, {"message": "prediction not found: upstream is gone"}),
        (500, {"message": "record p10 not found"}),
        (404, None),
        (404, {}),
        (404, {"message": "no Route matched with those values"}),
    ],
)
def test_a_prediction_is_not_missing_because_the_api_is(status: int, body: Any) -> None:
    with pytest.raises(errors.UnavailableError):
        read(Prediction, status, body)


def test_a_404_of_the_api_needs_no_words_about_the_prediction() -> None:
    for body in (envelope(code=404, message="not found"), {"code": 404}, {"detail": "Not Found"}):
        with pytest.raises(errors.NotFoundError) as caught:
            read(Prediction, 404, body)
        assert caught.value.status == 404


@pytest.mark.parametrize(
    "item", [{**CREATED, "id": None, "seed": 71}, {"seed": 71}, {"id": "../71"}, [71], 71, "", None]
)
def test_an_item_of_the_history_without_an_id_is_never_left_out_and_keeps_no_other_from_being_read(
    item: Any,
) -> None:
    page = {"page": 1, "items": [CREATED, item, CREATED]}
    first, odd, last = read(HistoryPage, 200, envelope(page), asked_for=None).items
    assert (first.id, last.id) == ("p1", "p1")
    assert isinstance(odd, Unnamed)
    assert odd.id == f"an item without an id: {json.dumps(item)}"
    assert odd.model == (item.get("model", "") if isinstance(item, dict) else "")


def test_another_prediction_than_the_one_asked_for_is_no_answer() -> None:
    with pytest.raises(errors.UnavailableError, match="asked for prediction p1, it answered with OTHER"):
        read(Prediction, 200, envelope({**CREATED, "id": "OTHER"}))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"message": "no luck"}, "no luck"),
        ({"error": "no luck"}, "no luck"),
        ({"error": {"message": "no luck", "code": "bad"}}, "no luck"),
        ({"detail": "no luck"}, "no luck"),
        ({"detail": {"message": "no luck"}}, "no luck"),
        ({"detail": [{"loc": ["body", "size"], "msg": "no luck"}, {"msg": "none"}]}, "size: no luck: none"),
        ({"errors": ["no luck", {"message": "none"}]}, "no luck: none"),
        ({"errors": "no luck"}, "no luck"),
        ({"message": "Bad request", "error": "no luck"}, "Bad request: no luck"),
        ({"message": "no luck", "error": {"message": "no luck"}}, "no luck"),
        ({"message": None, "error": [], "detail": 3, "errors": {}}, "no explanation"),
        ("no luck", "no explanation"),
        ([], "no explanation"),
    ],
)
def test_a_refusal_is_explained_wherever_its_text_is(body: Any, text: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        read(Balance, 400, body)
    assert caught.value.message == f"WaveSpeed refused the request (400): {text}"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, None),
        (402, {"error": "pay"}),
        (400, {"code": 400, "message": "Insufficient credits. Please top up your account"}),
        (400, {"error": "Insufficient credits"}),
        (400, {"error": {"message": "not enough balance"}}),
        (400, {"detail": [{"msg": "no funds"}]}),
        (400, {"message": "insufficient_credits"}),
        (400, {"code": 1407, "message": "refused"}),
        (400, {"code": "1407", "message": "refused"}),
        (403, {"error_code": "insufficient_credits", "message": "refused"}),
        (429, {"error": {"code": 1407, "message": "refused"}}),
        (500, {"error": {"code": "insufficient_credits"}}),
        (200, {"code": 1407, "message": "refused", "data": None}),
        (200, {"code": 200, "error_code": "insufficient_credits", "data": {}}),
        (200, {"error": {"code": 1407}}),
    ],
)
def test_no_credits_is_one_error_in_each_of_its_forms(status: int, body: Any) -> None:
    for shape in SHAPES:
        with pytest.raises(errors.InsufficientCreditsError):
            read(shape, status, body)
        with pytest.raises(errors.InsufficientCreditsError):
            read(shape, status, body, asked_for=None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"code": 1406, "message": "retry exhausted"}),
        (500, {"error": {"code": "retry_exhausted"}}),
        (200, {"code": 1406, "error_code": "retry_exhausted", "data": None}),
        (400, {"code": 5000, "message": "internal error"}),
        (200, {"code": 5003, "message": "unavailable"}),
    ],
)
def test_a_task_that_may_have_been_made_leaves_doubt(status: int, body: Any) -> None:
    with pytest.raises(errors.UnavailableError):
        read(Prediction, status, body, asked_for=None)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_may_belong_to_an_account_without_a_first_top_up(status: int) -> None:
    with pytest.raises(errors.AuthenticationError, match=r"no luck; keys work .* first top-up"):
        read(Balance, status, {"message": "no luck"})


def test_a_message_says_what_came_where_it_is_not_understood() -> None:
    body = envelope({"task_id": "t1", "image": "https://example.com/1?signature=s3cret", "key": KEY})
    with pytest.raises(errors.UnavailableError) as caught:
        read(Prediction, 200, body, asked_for=None)
    assert '"task_id": "t1"' in caught.value.message
    assert "s3cret" not in caught.value.message
    assert KEY not in caught.value.message
    with pytest.raises(errors.UnavailableError) as caught:
        read(WebhookSecret, 200, envelope({"webhook_secret": "whsec_s3cret"}))
    assert "s3cret" not in caught.value.message


def test_the_answer_is_kept_as_it_came_but_for_secrets_and_pictures() -> None:
    outputs = ["picture-1", "https://example.com/2.png?signature=s3cret", base64.b64encode(b"short").decode()]
    said = {
        **CREATED,
        "status": "completed",
        "outputs": outputs,
        "created_at": "2026-01-01T00:00:00.123456789Z",
        "has_nsfw_contents": None,
        "tomorrow": {"note": f"with {KEY}", "score": 0.5, "odd": float("nan"), "big": 10**400},
        "input": {"image": f"https://me:s3cret@example.com/in.jpg?key={KEY}", "seed": 7},
        "mask": "data:image/png;base64," + base64.b64encode(b"mask" * 20).decode(),
    }
    kept = read(Prediction, 200, envelope(said), pictures={"picture-1": b"long"}).answer
    assert kept == {
        **said,
        "outputs": ["(picture, 4 bytes)", "https://example.com/2.png", "(picture, 5 bytes)"],
        "tomorrow": {"note": "with ***", "score": 0.5, "odd": "nan", "big": str(10**400)},
        "input": {"image": "https://example.com/in.jpg", "seed": 7},
        "mask": "(picture, 80 bytes)",
    }
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept


def test_the_answer_that_is_kept_has_a_bounded_size() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"deeper": deep, "list": [deep] if isinstance(deep, int) else []}
    for more in ({"long": "x " * 10**6}, {"many": [1] * 10**5}, {str(n): n for n in range(10**5)}, deep):
        prediction = read(Prediction, 200, envelope({**CREATED, **more}))
        assert prediction.answer["id"] == "p1"
        assert len(json.dumps(prediction.answer)) < 40_000


@pytest.mark.parametrize(
    ("sent", "outputs", "is_readable"),
    [
        ("https://example.com/1.png", ["https://example.com/1.png"], True),
        ({"url": "https://example.com/1.png", "width": 3}, ["https://example.com/1.png"], True),
        ([{"url": "https://example.com/1.png"}, "b"], ["https://example.com/1.png", "b"], True),
        ([None, "b"], ["", "b"], True),
        ([], [], True),
        (None, [], True),
        ("", [], True),
        ({}, [], True),
        ([{"uri": "https://example.com/1.png?signature=s3cret"}], [""], False),
        ([["https://example.com/1.png"], "b"], ["", "b"], False),
        (3, [""], False),
    ],
)
def test_outputs_are_a_text_or_texts_or_objects_with_a_url(
    sent: Any, outputs: list[str], is_readable: bool
) -> None:
    prediction = read(Prediction, 200, envelope({**CREATED, "status": "completed", "outputs": sent}))
    assert prediction.outputs == outputs
    assert (prediction.unreadable_outputs is None) is is_readable
    assert "s3cret" not in (prediction.unreadable_outputs or "")


@pytest.mark.parametrize(
    ("sent", "flags"),
    [
        ([False, True], [False, True, None]),
        ([None, True], [None, True, None]),
        ([True], [True, None, None]),
        ([], [None, None, None]),
        (None, [None, None, None]),
        (True, [True, True, True]),
        (False, [False, False, False]),
        (["yes", True], [None, True, None]),
        ("true", [None, None, None]),
        ({}, [None, None, None]),
    ],
)
def test_a_flag_is_true_or_false_or_not_checked(sent: Any, flags: list[bool | None]) -> None:
    prediction = read(Prediction, 200, envelope({**CREATED, "has_nsfw_contents": sent}))
    assert [prediction.flag(index) for index in range(3)] == flags


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


def test_a_deletion_may_not_say_how_many() -> None:
    assert read(Deleted, 200, envelope({"deleted_count": 2})).deleted_count == 2
    assert read(Deleted, 200, envelope(None)).deleted_count is None


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape is not Deleted])
def test_an_answer_without_data_leaves_doubt(shape: type[BaseModel]) -> None:
    for body in (None, envelope(None)):
        with pytest.raises(errors.UnavailableError):
            read(shape, 200, body)


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
