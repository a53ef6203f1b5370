"""The emulator answers in the ways that public records show, where they disagree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefect_wavespeed.emulator.dialects import DIALECTS, STRICT, parse
from tests.support.emulator_client import SMALL, Api, data_of
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
