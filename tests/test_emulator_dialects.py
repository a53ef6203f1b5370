"""The emulator answers in the ways that public records show, where they disagree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefect_wavespeed.emulator.dialects import DIALECTS, STRICT, parse
from tests.support.emulator_client import MODEL, SMALL, Api, data_of
from tests.support.emulator_process import Emulator

IMAGE = "https://example.com/astronaut.jpg"


@pytest.fixture
def api(emulator: Emulator) -> Iterator[Api]:
    client = Api(emulator.url)
    yield client
    client.close()


# --- which are spoken ---


def test_dialects_are_set_at_run_time_until_a_reset(api: Api, emulator: Emulator) -> None:
    emulator.dialects("error-with-task", "history-without-inputs")
    assert api.http.get("/emulator/dialects").json() == ["error-with-task", "history-without-inputs"]
    emulator.dialects("retry-after")
    assert api.http.get("/emulator/dialects").json() == ["retry-after"]
    emulator.reset()
    assert api.http.get("/emulator/dialects").json() == []


def test_a_reset_returns_to_the_dialects_of_the_start() -> None:
    with Emulator("--dialect", "retry-after", "image-moved", "--dialect", "error-is-task") as emulator:
        api = Api(emulator.url)
        emulator.dialects()
        assert api.http.get("/emulator/dialects").json() == []
        emulator.reset()
        assert api.http.get("/emulator/dialects").json() == ["error-is-task", "image-moved", "retry-after"]
        api.close()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["klingon"], "klingon.*, only strict, history-without-inputs, "),
        (["error-with-task", "error-is-task"], "alternatives"),
    ],
)
def test_dialects_that_cannot_be_spoken_are_refused(
    api: Api, emulator: Emulator, names: list[str], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        emulator.dialects(*names)
    for body in (b'{"retry-after": true}', b"[1]", b"retry-after"):
        assert api.http.put("/emulator/dialects", content=body).status_code == 400
    assert api.http.get("/emulator/dialects").json() == []


def test_strict_stands_for_the_documentation_and_gives_way_to_what_is_named() -> None:
    assert parse(["strict"]) == STRICT
    assert parse(["strict", "result-says-inputs"]) == STRICT - {"result-without-inputs"} | {
        "result-says-inputs"
    }
    assert set(STRICT) <= set(DIALECTS)


# --- history and result ---


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        (None, {"input"}),
        ("history-says-inputs", {"inputs"}),
        ("history-without-inputs", set()),
    ],
)
def test_the_history_tells_the_input(
    api: Api, emulator: Emulator, dialect: str | None, names: set[str]
) -> None:
    image = api.upload()
    api.run(image=image)
    emulator.dialects(*filter(None, [dialect]))
    (item,) = api.history(include_inputs=True)
    assert item.keys() & {"input", "inputs"} == names
    assert all(item[name] == {**SMALL, "image": image} for name in names)


def test_a_history_may_refuse_to_include_inputs(api: Api, emulator: Emulator) -> None:
    emulator.dialects("history-refuses-inputs")
    answer = api.post("/api/v3/predictions", {"page": 1, "page_size": 1, "include_inputs": True})
    assert answer.status_code == 400
    assert "include_inputs" in answer.json()["message"]
    assert api.history() == []


@pytest.mark.parametrize(
    ("dialect", "names"),
    [(None, {"input"}), ("result-says-inputs", {"inputs"}), ("result-without-inputs", set())],
)
def test_the_result_tells_the_input(
    api: Api, emulator: Emulator, dialect: str | None, names: set[str]
) -> None:
    image = api.upload()
    emulator.dialects(*filter(None, [dialect]))
    done = api.run(image=image)
    assert done.keys() & {"input", "inputs"} == names
    assert all(done[name] == {**SMALL, "image": image} for name in names)


def test_the_image_may_have_another_url_in_the_inputs(api: Api, emulator: Emulator) -> None:
    emulator.dialects("image-moved")
    image = api.upload()
    done = api.run(image=image)
    (listed,) = api.history(include_inputs=True)
    assert done["input"] == listed["input"]
    assert done["input"]["image"].startswith("https://static.")
    assert done["input"] == {**SMALL, "image": done["input"]["image"]}


# --- failures ---


@pytest.mark.parametrize(("code", "status"), [(1200, 400), (5000, 500)])
@pytest.mark.parametrize("dialect", ["error-with-task", "error-is-task"])
def test_a_failed_prediction_may_come_with_an_error(
    api: Api, emulator: Emulator, dialect: str, code: int, status: int
) -> None:
    emulator.dialects(dialect)
    emulator.faults([{"on": "prediction", "fault": "failed", "code": code, "times": None}])
    answer = api.submit(image=IMAGE, enable_sync_mode=True)
    assert answer.status_code == status
    task = task_of(answer.json(), dialect)
    assert (task["status"], task["code"]) == ("failed", code)
    again = api.http.get(f"/api/v3/predictions/{task['id']}/result")
    assert again.status_code == status
    assert task_of(again.json(), dialect) == {**task, "input": task_of(again.json(), dialect)["input"]}


def task_of(body: dict[str, Any], dialect: str) -> dict[str, Any]:
    if dialect == "error-is-task":
        return body
    data: dict[str, Any] = body["data"]
    return data


# --- limits ---


def test_too_many_submissions_are_refused_without_a_word_on_how_long_to_wait() -> None:
    with Emulator("--tier", "2", "1", "--prerendered", "--latency", "0", "0") as emulator:
        api = Api(emulator.url)
        emulator.faults([{"on": "prediction", "fault": "stuck"}])
        first = data_of(api.submit(image=IMAGE))
        beside = api.submit(image=IMAGE)
        assert (beside.status_code, beside.json()["message"]) == (
            429,
            "You have reached your concurrency limit",
        )
        data_of(api.post("/api/v3/predictions/delete", {"ids": [first["id"]]}))
        api.wait(data_of(api.submit(image=IMAGE))["id"])
        third = api.submit(image=IMAGE)
        assert (third.status_code, third.json()["message"]) == (429, "2 predictions per 1 minute")
        assert "Retry-After" not in beside.headers.keys() | third.headers.keys()
        emulator.dialects("retry-after")
        assert 50 <= int(api.submit(image=IMAGE).headers["Retry-After"]) <= 60
        api.close()


# --- predictions ---


@pytest.mark.parametrize(
    ("dialect", "plain", "flagged"),
    [(None, None, [True, True]), ("nsfw-list", [False, False], [True, True]), ("nsfw-boolean", False, True)],
)
def test_what_is_not_safe_for_work_is_told(
    api: Api, emulator: Emulator, dialect: str | None, plain: object, flagged: object
) -> None:
    emulator.dialects(*filter(None, [dialect]))
    emulator.faults([{"on": "prediction", "fault": "nsfw", "skip": 1}])
    assert api.run(num_images=2)["has_nsfw_contents"] == plain
    assert api.run(num_images=2)["has_nsfw_contents"] == flagged


def test_outputs_are_static_urls(api: Api, emulator: Emulator) -> None:
    done = api.run(num_images=2)
    assert [url.rsplit("/", 2)[1:] for url in done["outputs"]] == [
        [done["id"], "1.jpeg"],
        [done["id"], "2.jpeg"],
    ]
    assert api.result(done["id"])["outputs"] == done["outputs"]


def test_expired_outputs_may_be_renewed(api: Api, emulator: Emulator) -> None:
    emulator.dialects("renewed-urls")
    emulator.faults([{"on": "prediction", "fault": "expired"}])
    done = api.run()
    (again,) = api.result(done["id"])["outputs"]
    assert api.cdn.get(done["outputs"][0]).status_code == 404
    assert api.cdn.get(again).status_code == 200


def test_outputs_may_be_a_string_or_objects(api: Api, emulator: Emulator) -> None:
    emulator.dialects("outputs-string")
    assert api.cdn.get(api.run()["outputs"]).status_code == 200
    assert len(api.run(num_images=2)["outputs"]) == 2
    emulator.dialects("outputs-objects")
    (output,) = api.run()["outputs"]
    assert api.cdn.get(output["url"]).status_code == 200


def test_a_failure_may_have_no_code(api: Api, emulator: Emulator) -> None:
    emulator.dialects("failed-without-code")
    emulator.faults([{"on": "prediction", "fault": "failed", "code": code} for code in (5000, 1200)])
    again, never = api.run(), api.run()
    assert (again["status"], again["code"]) == ("failed", 0)
    assert "HTTP 502" in again["error"]
    assert (never["code"], never["error"]) == (1200, "internal error")


@pytest.mark.parametrize(
    ("dialect", "status"), [(None, 404), ("unknown-is-400", 400), ("unknown-is-500", 500)]
)
def test_an_unknown_prediction_is_an_error(
    api: Api, emulator: Emulator, dialect: str | None, status: int
) -> None:
    emulator.dialects(*filter(None, [dialect]))
    answer = api.http.get("/api/v3/predictions/nothing/result")
    assert (answer.status_code, answer.json()) == (
        status,
        {"code": status, "message": "prediction not found"},
    )


def test_a_deletion_may_tell_nothing(api: Api, emulator: Emulator) -> None:
    emulator.dialects("delete-null")
    done = api.run()
    assert data_of(api.post("/api/v3/predictions/delete", {"ids": [done["id"]]})) is None
    assert api.result(done["id"])["status"] == "deleted"


# --- refusals ---


@pytest.mark.parametrize("dialects", [(), ("error-is-task",)])
def test_a_submission_may_be_refused_with_the_prediction_that_it_made(
    api: Api, emulator: Emulator, dialects: tuple[str, ...]
) -> None:
    image = api.upload()
    emulator.faults([{"on": "submit", "fault": "error_with_task", "status": 422, "message": "sorry"}])
    emulator.dialects(*dialects)
    once = api.submit(image=image)
    emulator.dialects("submit-error-with-task", *dialects)
    always = api.submit(image=image)
    for answer, status in ((once, 422), (always, 400)):
        body = answer.json()
        task = body if dialects else body["data"]
        assert (answer.status_code, body["code"]) == (status, 0 if dialects else status)
        assert api.wait(task["id"])["status"] == "completed"
    assert emulator.ledger()["billed"] == 2


NO_CREDITS = {"message": "Insufficient credits. Please top up your account."}


@pytest.mark.parametrize(
    ("dialect", "status", "code", "more"),
    [
        (None, 400, 400, {}),
        ("credits-402", 402, 402, {}),
        ("credits-1407", 400, 1407, {"error_code": "insufficient_credits"}),
        ("credits-1407-enveloped", 200, 1407, {"error_code": "insufficient_credits"}),
    ],
)
def test_no_credits_are_refused(
    api: Api, emulator: Emulator, dialect: str | None, status: int, code: int, more: dict[str, str]
) -> None:
    emulator.price(1000)
    emulator.dialects(*filter(None, [dialect]))
    answer = api.submit(image=IMAGE)
    assert (answer.status_code, answer.json()) == (status, {"code": code, **NO_CREDITS, **more})
    assert emulator.ledger()["predictions"] == []


WRONG = 'invalid parameter "num_images": Input should be less than or equal to 4'


@pytest.mark.parametrize(
    ("dialects", "status", "expected"),
    [
        ((), 400, {"code": 400, "message": WRONG}),
        (("refusals-enveloped",), 200, {"code": 1400, "message": WRONG}),
        (("text-in-error",), 400, {"error": WRONG}),
        (("text-in-error", "refusals-enveloped"), 200, {"code": 1400, "error": WRONG}),
        (("text-in-detail",), 400, {"detail": WRONG}),
        (
            ("text-in-detail-list",),
            400,
            {"detail": [{"loc": ["body"], "msg": WRONG, "type": "value_error"}]},
        ),
        (("text-in-errors",), 400, {"errors": [{"message": WRONG}]}),
    ],
)
def test_a_refusal_explains_itself(
    api: Api, emulator: Emulator, dialects: tuple[str, ...], status: int, expected: dict[str, Any]
) -> None:
    emulator.dialects(*dialects)
    answer = api.submit(image=IMAGE, num_images=5)
    assert (answer.status_code, answer.json()) == (status, expected)
    assert emulator.ledger()["predictions"] == []


def test_fields_that_do_not_exist_or_are_not_valid_may_be_dropped_and_billed(
    api: Api, emulator: Emulator
) -> None:
    emulator.dialects("fields-dropped")
    image = api.upload()
    done = api.run(image=image, guidance_scale=21, guidence_scale=5)
    assert done["input"] == {**SMALL, "image": image}
    assert emulator.ledger()["billed"] == 1


def test_base64_with_a_webhook_is_refused(api: Api, emulator: Emulator) -> None:
    answer = api.submit("https://example.com/hook", image=IMAGE, enable_base64_output=True)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert emulator.ledger()["predictions"] == []


def test_result_calls_may_count_against_the_limit() -> None:
    with Emulator("--tier", "3", "9", "--prerendered", "--dialect", "results-limited") as emulator:
        api = Api(emulator.url)
        created = data_of(api.submit(image=IMAGE))
        path = f"/api/v3/predictions/{created['id']}/result"
        assert [api.http.get(path).status_code for _ in range(3)] == [200, 200, 429]
        assert api.submit(image=IMAGE).status_code == 429
        assert emulator.ledger()["rejected"] == 1
        api.close()


# --- around it ---

BINARY, TICKETS = "/api/v3/media/upload/binary", "/api/v3/media/uploads"


@pytest.mark.parametrize(
    ("dialect", "binary", "tickets"),
    [
        (None, 200, 200),
        ("upload-tickets-only", 404, 200),
        ("upload-binary-only", 200, 404),
        ("upload-url", 200, 404),
    ],
)
def test_there_may_be_only_one_way_of_uploading(
    api: Api, emulator: Emulator, dialect: str | None, binary: int, tickets: int
) -> None:
    emulator.dialects(*filter(None, [dialect]))
    uploaded = api.http.post(BINARY, files={"file": ("a.jpg", b"bytes", "image/jpeg")})
    assert uploaded.status_code == binary
    assert api.post(TICKETS, {"filename": "a.jpg", "size": 1}).status_code == tickets
    if dialect == "upload-url":
        assert list(uploaded.json()) == ["data"]
        assert api.cdn.get(uploaded.json()["data"]["url"]).content == b"bytes"


def test_a_price_may_be_a_unit_price_or_at_the_old_path_only(api: Api, emulator: Emulator) -> None:
    asked = {"model_id": MODEL, "inputs": {"num_images": 2}}
    emulator.dialects("price-unit")
    price = data_of(api.post("/api/v3/model/price", asked))
    assert price == {"model_id": MODEL, "unit_price": 0.05, "currency": "USD"}
    emulator.dialects("price-legacy-only")
    assert api.post("/api/v3/model/price", asked).status_code == 404
    assert data_of(api.post("/api/v3/model/pricing", asked))["unit_price"] == 0.025


def billings(api: Api, **query: Any) -> dict[str, Any]:
    data: dict[str, Any] = data_of(api.post("/api/v3/billings/search", {"page": 1, "page_size": 2, **query}))
    return data


def test_billing_speaks_dialects(api: Api, emulator: Emulator) -> None:
    done = api.run()
    api.run(image="http://127.0.0.1:9/")
    seen = billings(api)
    assert (seen["has_more"], "total" in seen, billings(api, page=2)["has_more"]) == (True, False, False)
    assert [(one["billing_type"], one["price"]) for one in seen["items"]] == [
        ("refund", 0.025),
        ("deduct", 0.025),
    ]

    emulator.dialects("billing-final-price", "billing-total")
    strict = billings(api)
    assert (strict["total"], "has_more" in strict) == (2, False)
    assert [(one["billing_type"], one["price"]) for one in strict["items"]] == [
        ("deduct", 0),
        ("deduct", 0.025),
    ]

    emulator.dialects("billing-millionths", "billing-milliseconds")
    (first, *_) = billings(api, sort="created_at ASC")["items"]
    assert (first["price"], first["prediction"]["uuid"]) == (25_000, done["id"])
    assert len(billings(api, start_time=first["created_at"])["items"]) == 2


@pytest.mark.parametrize(
    ("dialect", "milliseconds", "rfc3339"),
    [(None, 200, 200), ("billing-milliseconds", 200, 400), ("billing-rfc3339", 400, 200)],
)
def test_billing_may_take_times_in_one_form_only(
    api: Api, emulator: Emulator, dialect: str | None, milliseconds: int, rfc3339: int
) -> None:
    emulator.dialects(*filter(None, [dialect]))
    for moment, status in (("1764412800000", milliseconds), ("2026-11-29T10:40:00Z", rfc3339)):
        query = {"page": 1, "page_size": 1, "start_time": moment}
        assert api.post("/api/v3/billings/search", query).status_code == status
