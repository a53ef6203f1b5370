"""The emulator fails as the fault script says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from prefect_wavespeed.emulator.faults import FAULTS, Script, ScriptError
from tests.support.emulator_client import MODEL, SMALL, Api, Web, data_of, opened, signed_with, until
from tests.support.emulator_process import Emulator


@pytest.fixture
def api(emulator: Emulator) -> Iterator[Api]:
    client = Api(emulator.url)
    yield client
    client.close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


# --- webhooks ---


def test_a_webhook_is_signed_and_carries_the_prediction_with_its_input(api: Api, web: Web) -> None:
    secret = data_of(api.http.get("/api/v3/webhook/secret"))["secret"]
    image = api.upload()
    created = data_of(api.submit(f"{web.url}/hook", image=image))
    until(lambda: len(web.posts) == 1)
    headers, body = web.posts[0]
    assert signed_with(secret, headers, body)
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 5
    assert json.loads(body) == {**api.result(created["id"]), "input": {**SMALL, "image": image}}
    assert "authorization" not in headers


def test_failures_are_delivered_to_webhooks_too(api: Api, web: Web) -> None:
    api.submit(f"{web.url}/hook", image="http://127.0.0.1:9/")
    until(lambda: len(web.posts) == 1)
    assert json.loads(web.posts[0][1])["code"] == 1402


def test_a_webhook_is_retried_until_it_succeeds(api: Api, emulator: Emulator, web: Web) -> None:
    web.answers[:] = [500]
    api.submit(f"{web.url}/hook", image=api.upload())
    until(lambda: emulator.ledger()["predictions"][0]["deliveries"] == [500, 200])
    assert web.posts[0][0]["webhook-id"] == web.posts[1][0]["webhook-id"]


@pytest.mark.parametrize(("fault", "posts"), [("drop", 0), ("twice", 2), ("late", 1), ("forged", 1)])
def test_each_fault_of_webhooks(api: Api, emulator: Emulator, web: Web, fault: str, posts: int) -> None:
    rule: dict[str, Any] = {"on": "webhook", "fault": fault}
    emulator.faults([{**rule, "seconds": 0.3} if fault == "late" else rule])
    created = data_of(api.submit(f"{web.url}/hook", image=api.upload()))
    api.wait(created["id"])
    if fault == "late":
        assert web.posts == []
    until(lambda: len(web.posts) == posts)
    time.sleep(0.1)
    assert len(web.posts) == posts
    secret = data_of(api.http.get("/api/v3/webhook/secret"))["secret"]
    assert all(signed_with(secret, *post) == (fault != "forged") for post in web.posts)


# --- faults of submissions ---


SUBMIT_FAULTS: list[tuple[dict[str, Any], str | int, int]] = [
    ({"fault": "refused", "status": 400}, 400, 0),
    ({"fault": "refused", "status": 401}, 401, 0),
    ({"fault": "refused", "status": 402}, 402, 0),
    ({"fault": "refused", "status": 403}, 403, 0),
    ({"fault": "refused", "status": 404}, 404, 0),
    ({"fault": "refused", "status": 429, "retry_after": 2}, 429, 0),
    ({"fault": "refused"}, 503, 0),
    ({"fault": "refused", "status": 402, "enveloped": True}, "enveloped", 0),
    ({"fault": "refused", "status": 400, "code": 1406, "enveloped": True}, "enveloped", 0),
    ({"fault": "drop_before"}, "dropped", 0),
    ({"fault": "drop_after"}, "dropped", 1),
    ({"fault": "status_after"}, 504, 1),
    ({"fault": "status_after", "status": 500}, 500, 1),
    ({"fault": "error_with_task"}, 400, 1),
    ({"fault": "hang_before"}, "timeout", 0),
    ({"fault": "hang_before", "seconds": 0.1}, 503, 0),
    ({"fault": "hang_after"}, "timeout", 1),
    ({"fault": "hang_after", "seconds": 0.1}, "good", 1),
    ({"fault": "garbage_before"}, "garbage", 0),
    ({"fault": "garbage"}, "garbage", 1),
    ({"fault": "no_id"}, "no id", 1),
    ({"fault": "redirect", "location": "https://example.com/"}, 307, 0),
    ({"fault": "sync_timeout"}, "good", 1),
]


@pytest.mark.parametrize(("rule", "seen", "created"), SUBMIT_FAULTS, ids=lambda value: str(value))
def test_each_fault_of_submissions(
    api: Api, emulator: Emulator, rule: dict[str, Any], seen: str | int, created: int
) -> None:
    emulator.faults([{"on": "submit", **rule}])
    image = api.upload()
    try:
        answer = api.http.post(f"/api/v3/{MODEL}", json={"image": image, **SMALL}, timeout=0.5)
    except httpx.TimeoutException:
        assert seen == "timeout"
    except httpx.TransportError:
        assert seen == "dropped"
    else:
        assert classify(answer) == seen
        if "code" in rule:
            assert answer.json()["code"] == 1406
        if "retry_after" in rule:
            assert answer.headers["Retry-After"] == "2"
    assert len(emulator.ledger()["predictions"]) == emulator.ledger()["billed"] == created
    assert "id" in data_of(api.submit(image=image)), "by default a rule fires once"


def classify(answer: httpx.Response) -> str | int:
    """Classify an answer as a client does."""
    if answer.status_code != 200:
        return answer.status_code
    try:
        body = answer.json()
    except ValueError:
        return "garbage"
    if body["code"] != 200:
        return "enveloped"
    return "good" if body["data"].get("id") else "no id"


def test_a_late_submission_is_created_after_the_connection_was_cut(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "submit", "fault": "late", "seconds": 0.3}])
    with pytest.raises(httpx.TransportError):
        api.submit(image=api.upload())
    assert emulator.ledger()["predictions"] == []
    until(lambda: emulator.ledger()["billed"] == 1)


def test_sync_mode_that_times_out_reports_that_the_prediction_goes_on(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "submit", "fault": "sync_timeout"}])
    answer = data_of(api.submit(image=api.upload(), enable_sync_mode=True))
    assert (answer["status"], answer["code"]) == ("processing", 5004)
    assert api.wait(answer["id"])["status"] == "completed"


# --- faults of the other calls ---


CALLS: dict[str, Callable[[Api], httpx.Response]] = {
    "result": lambda api: api.http.get("/api/v3/predictions/x/result"),
    "history": lambda api: api.post("/api/v3/predictions", {"page": 1, "page_size": 1}),
    "delete": lambda api: api.post("/api/v3/predictions/delete", {"ids": ["x"]}),
    "upload": lambda api: api.post("/api/v3/media/uploads", {"filename": "a", "size": 1}),
    "price": lambda api: api.post("/api/v3/model/price", {"model_id": MODEL, "inputs": {}}),
    "pricing": lambda api: api.post("/api/v3/model/pricing", {"model_id": MODEL}),
    "balance": lambda api: api.http.get("/api/v3/balance"),
    "account_balance": lambda api: api.http.get("/api/v3/account/balance"),
    "billings": lambda api: api.post("/api/v3/billings/search", {"page": 1, "page_size": 1}),
    "secret": lambda api: api.http.get("/api/v3/webhook/secret"),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_fault_of_the_other_calls(api: Api, emulator: Emulator, name: str) -> None:
    emulator.faults(
        [
            {"on": name, "fault": "status", "status": 429, "retry_after": "Wed, 21 Oct 2037 07:28:00 GMT"},
            {"on": name, "fault": "drop"},
            {"on": name, "fault": "garbage"},
            {"on": name, "fault": "html"},
            {"on": name, "fault": "redirect", "location": "https://example.com/"},
            {"on": name, "fault": "hang", "seconds": 0.2},
        ]
    )
    limited = CALLS[name](api)
    assert limited.status_code == 429
    assert limited.headers["Retry-After"].endswith("GMT")
    with pytest.raises(httpx.TransportError):
        CALLS[name](api)
    assert classify(CALLS[name](api)) == "garbage"
    page = CALLS[name](api)
    assert (page.status_code, page.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    assert CALLS[name](api).status_code == 307
    started = time.monotonic()
    expected = 404 if name == "result" else 200
    assert CALLS[name](api).status_code == expected
    assert time.monotonic() - started >= 0.2
    assert CALLS[name](api).status_code == expected
    assert emulator.ledger()["calls"][name] == 7


def test_each_fault_of_the_cdn(api: Api, emulator: Emulator) -> None:
    url = api.run()["outputs"][0]
    whole = api.cdn.get(url).content

    def break_with(fault: str, **more: Any) -> None:
        emulator.faults([{"on": "cdn", "fault": fault, **more}])

    for status in (404, 503):
        break_with("status", status=status)
        assert api.cdn.get(url).status_code == status
    for fault in ("drop", "truncated"):
        break_with(fault)
        with pytest.raises(httpx.RemoteProtocolError if fault == "truncated" else httpx.TransportError):
            api.cdn.get(url)
    break_with("html")
    assert api.cdn.get(url).headers["Content-Type"].startswith("text/html")
    break_with("corrupt")
    with pytest.raises(OSError, match="truncated"):
        opened(api.cdn.get(url).content)
    break_with("wrong_format")
    assert opened(api.cdn.get(url).content).format == "PNG"
    break_with("hang")
    with pytest.raises(httpx.ReadTimeout):
        api.cdn.get(url, timeout=0.2)
    break_with("redirect", location=url)
    assert api.cdn.get(url, follow_redirects=True).content == whole
    break_with("slow", seconds=0.4)
    started = time.monotonic()
    assert api.cdn.get(url).content == whole
    assert time.monotonic() - started >= 0.4
    assert api.cdn.get(url).content == whole


# --- faults of predictions ---


OUTCOMES: list[tuple[dict[str, Any], str, int, int]] = [
    ({"fault": "failed"}, "failed", 5000, 0),
    ({"fault": "failed", "code": 1200, "message": "moderated"}, "failed", 1200, 0),
    ({"fault": "timeout"}, "timeout", 5004, 0),
    ({"fault": "cancelled"}, "cancelled", 0, 0),
    ({"fault": "deleted"}, "deleted", 0, 1),
    ({"fault": "no_outputs"}, "completed", 0, 1),
]


@pytest.mark.parametrize(("rule", "status", "code", "billed"), OUTCOMES, ids=lambda value: str(value))
def test_each_fault_that_ends_a_prediction(
    api: Api, emulator: Emulator, rule: dict[str, Any], status: str, code: int, billed: int
) -> None:
    emulator.faults([{"on": "prediction", **rule}])
    done = api.run()
    assert (done["status"], done["code"], done["outputs"]) == (status, code, [])
    if "message" in rule:
        assert done["error"] == "moderated"
    ledger = emulator.ledger()
    assert (ledger["billed"], ledger["in_flight"]) == (billed, 0)
    assert ledger["balance"] == 100 - 0.025 * billed


def test_a_stuck_prediction_stays_in_flight(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "stuck"}])
    created = data_of(api.submit(image=api.upload()))
    time.sleep(0.3)
    assert api.result(created["id"])["status"] == "processing"
    assert emulator.ledger()["in_flight"] == 1


def test_flagged_outputs_are_all_flagged(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "nsfw"}])
    assert api.run(num_images=2)["has_nsfw_contents"] == [True, True]


def test_outputs_cannot_be_had_until_the_result_is_asked_for_again(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "expired"}])
    done = api.run()
    assert api.cdn.get(done["outputs"][0]).status_code == 404
    assert api.result(done["id"]) == done
    assert api.cdn.get(done["outputs"][0]).status_code == 200


# --- outputs that disappoint ---


def test_a_picture_may_be_missing(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "missing"}])
    done = api.run(num_images=3)
    assert (done["status"], len(done["outputs"])) == ("completed", 2)
    assert emulator.ledger()["spent"] == 0.075


@pytest.mark.parametrize(
    ("fault", "output_format", "expected"),
    [
        ("black", "jpeg", ("jpeg", (256, 256), (0, 0, 0))),
        ("blank", "png", ("png", (256, 256), (255, 255, 255))),
        ("other_size", "webp", ("webp", (128, 128), None)),
        ("other_format", "jpeg", ("png", (256, 256), None)),
        ("other_format", "png", ("jpeg", (256, 256), None)),
    ],
)
def test_the_last_picture_may_be_another_than_was_asked_for(
    api: Api, emulator: Emulator, fault: str, output_format: str, expected: tuple[str, Any, Any]
) -> None:
    emulator.faults([{"on": "prediction", "fault": fault}])
    first, last = api.run(num_images=2, output_format=output_format)["outputs"]
    whole, flawed = api.cdn.get(first), api.cdn.get(last)
    image = opened(flawed.content)
    colours = image.convert("RGB").getcolors()
    assert (str(image.format).lower(), image.size, colours[0][1] if colours else None) == expected
    assert flawed.headers["Content-Type"] == f"image/{expected[0]}"
    assert last.endswith(f"2.{expected[0]}")
    image = opened(whole.content)
    assert (str(image.format).lower(), image.size) == (output_format, (256, 256))
    assert not image.convert("RGB").getcolors()


# --- the history, base64 ---


def test_an_unlisted_prediction_appears_in_the_history_later(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "unlisted", "seconds": 0.5}])
    data_of(api.submit(image=api.upload()))
    assert api.history() == []
    until(lambda: len(api.history()) == 1)


def test_base64_can_come_as_a_data_uri(api: Api, emulator: Emulator) -> None:
    emulator.faults([{"on": "prediction", "fault": "data_uri"}])
    assert api.run(enable_base64_output=True)["outputs"][0].startswith("data:image/jpeg;base64,/9j/")


# --- the fault script ---


def test_rules_fire_in_order_and_as_often_as_they_say(api: Api, emulator: Emulator) -> None:
    emulator.faults(
        [
            {"on": "balance", "fault": "status", "status": 500, "skip": 1, "times": 2},
            {"on": "balance", "fault": "status", "status": 502, "skip": 1, "times": None},
        ]
    )
    assert [api.http.get("/api/v3/balance").status_code for _ in range(5)] == [200, 500, 500, 502, 502]


def test_a_rule_can_be_for_one_request_only(api: Api, emulator: Emulator) -> None:
    image = api.upload()
    emulator.faults(
        [{"on": "submit", "fault": "refused", "times": None, "match": {"image": "uploads", "seed": 2}}]
    )
    assert [api.submit(image=image, seed=seed).status_code for seed in (1, 2, 3)] == [200, 503, 200]


def test_a_rule_with_a_probability_fires_sometimes() -> None:
    script = Script.parse([{"on": "cdn", "fault": "drop", "times": None, "probability": 0.3}])
    assert 250 < sum(script.pick("cdn") is not None for _ in range(1000)) < 350


@pytest.mark.parametrize("on", FAULTS)
def test_every_documented_fault_is_accepted(on: str) -> None:
    for fault in FAULTS[on]:
        more = {"location": "https://example.com/"} if fault == "redirect" else {}
        assert Script.parse([{"on": on, "fault": fault, **more}]).rules[0].fault == fault


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({}, "list"),
        ([5], "object"),
        ([{"fault": "drop"}], '"on"'),
        ([{"on": "cdn"}], '"fault"'),
        ([{"on": "nowhere", "fault": "drop"}], "submit, result"),
        ([{"on": "cdn", "fault": "no_id"}], "truncated"),
        ([{"on": "cdn", "fault": "drop", "seconds": 3}], '"seconds" is not an option'),
        ([{"on": "cdn", "fault": "drop", "times": 0}], "times"),
        ([{"on": "cdn", "fault": "drop", "times": "2"}], "times"),
        ([{"on": "cdn", "fault": "drop", "probability": 2}], "probability"),
        ([{"on": "submit", "fault": "refused", "status": 42}], "status"),
        ([{"on": "balance", "fault": "drop", "match": {"seed": 1}}], '"match" is not possible'),
        ([{"on": "submit", "fault": "drop_after", "match": {"size": 1}}], "match.size"),
        ([{"on": "result", "fault": "redirect"}], "location"),
    ],
)
def test_an_invalid_script_is_refused_in_one_line(script: Any, expected: str) -> None:
    with pytest.raises(ScriptError) as refused:
        Script.parse(script)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)
