"""Strict in what is sent, lenient in what is read; errors that can be printed and pickled."""

from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import boto3
import cloudpickle  # type: ignore[import-untyped]
import pytest
from pydantic import BaseModel, ValidationError

from prefect_wavespeed import errors
from prefect_wavespeed.api.billing import Quote
from prefect_wavespeed.api.models import MAX_SEED, MODEL, ReduxParams, ReduxRequest
from prefect_wavespeed.api.predictions import TERMINAL, HistoryPage, Prediction, Status
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.job import Output, Restyled
from prefect_wavespeed.settling.summary import Settled, SettleOutcome
from prefect_wavespeed.steps.notebook import with_thumbnails
from prefect_wavespeed.storage.open_store import s3_store

# Requests: field, what is taken, what is refused
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "size": (
        ["256*256", "1536*1536", "256*1536", "1024*768"],
        [
            "255*256",
            "256*1537",
            "1024x1024",
            "1024",
            "*",
            "-256*256",
            "256*256*256",
            " 256*256",
            "1e3*256",
            None,
            1024,
        ],
    ),
    "num_inference_steps": ([1, 28, 50], [0, 51, -1, 1.5, "many", None]),
    "guidance_scale": ([1, 3.5, 20], [0.99, 20.01, float("nan"), float("inf"), "strong", None]),
    "num_images": ([1, 2, 3, 4], [0, 5, None]),
    "seed": ([-1, 0, MAX_SEED], [-2, MAX_SEED + 1, 0.5, None]),
    "output_format": (["jpeg", "png", "webp"], ["jpg", "JPEG", "gif", "", None]),
    "enable_base64_output": ([True, False], ["perhaps", None, 2]),
    "enable_sync_mode": ([True, False], ["perhaps", None, 2]),
}


def test_every_parameter_has_its_ranges_here() -> None:
    assert set(FIELDS) == set(ReduxParams.model_fields)


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in FIELDS for value in FIELDS[field][0]]
)
def test_a_value_in_range_is_taken(field: str, value: Any) -> None:
    assert getattr(ReduxParams.model_validate({field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in FIELDS for value in FIELDS[field][1]]
)
def test_a_value_out_of_range_is_refused_by_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ReduxParams.model_validate({field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


def test_the_defaults_are_the_apis() -> None:
    assert ReduxRequest(image="https://example.com/cat.jpg").model_dump() == {
        "image": "https://example.com/cat.jpg",
        "size": "1024*1024",
        "num_inference_steps": 28,
        "guidance_scale": 3.5,
        "num_images": 1,
        "seed": -1,
        "output_format": "jpeg",
        "enable_base64_output": False,
        "enable_sync_mode": False,
    }


@pytest.mark.parametrize("more", [{"prompt": "a cat"}, {"strength": 1}])
def test_an_unknown_field_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReduxRequest.model_validate({"image": "https://example.com/cat.jpg", **more})


@pytest.mark.parametrize("image", [{}, {"image": ""}, {"image": None}, {"image": 1}])
def test_a_request_needs_a_picture(image: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReduxRequest.model_validate(image)


def test_a_size_is_written_in_one_way_and_read_in_pixels() -> None:
    params = ReduxParams(size="0512*768")
    assert (params.size, params.width, params.height) == ("512*768", 512, 768)


def test_parameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ReduxParams().seed = 1  # type: ignore[misc]


def test_every_parameter_is_described_for_the_form() -> None:
    assert all(field.description for field in ReduxRequest.model_fields.values())


# Predictions


def test_a_full_prediction_is_read() -> None:
    prediction = Prediction.model_validate(
        {
            "id": "p1",
            "model": MODEL,
            "outputs": ["https://example.com/1.jpeg"],
            "urls": {"get": "https://api.wavespeed.ai/api/v3/predictions/p1/result", "cancel": "?"},
            "has_nsfw_contents": [False],
            "status": "completed",
            "created_at": "2026-01-01T12:00:00.123456789Z",
            "error": "",
            "code": 0,
            "executionTime": 1900,
            "timings": {"inference": 1834.5, "queue": 3},
            "input": {"seed": 7},
            "tomorrow": "unknown",
        }
    )
    assert prediction.created_at == datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert prediction.inference_ms == 1834.5
    assert prediction.urls.get is not None
    assert prediction.urls.get.endswith("/p1/result")
    assert prediction.terminal
    assert "tomorrow" not in prediction.model_dump()


OPTIONAL = [name for name in Prediction.model_fields if name != "id"]


def test_only_the_id_is_needed() -> None:
    nothing = Prediction.model_validate({"id": "p1"})
    assert (
        nothing.model_dump()
        == Prediction.model_validate({"id": "p1", **dict.fromkeys(OPTIONAL)}).model_dump()
    )
    assert (nothing.outputs, nothing.status, nothing.code, nothing.error) == ([], "created", 0, "")
    assert nothing.created_at is None
    assert nothing.inference_ms is None
    assert not nothing.terminal


@pytest.mark.parametrize("odd", ["?", 3.5, [], {}, [{}], {"a": []}, True])
@pytest.mark.parametrize("name", OPTIONAL)
def test_nothing_odd_in_an_optional_field_costs_the_id(name: str, odd: Any) -> None:
    assert Prediction.model_validate({"id": "p1", name: odd}).id == "p1"


@pytest.mark.parametrize("said", [{}, {"id": None}, {"id": ""}, {"id": {}}, [], None, "p1"])
def test_without_an_id_there_is_no_prediction(said: Any) -> None:
    with pytest.raises(ValidationError):
        Prediction.model_validate(said)


def test_a_number_may_be_an_id() -> None:
    assert Prediction.model_validate({"id": 7}).id == "7"


@pytest.mark.parametrize(
    ("status", "terminal"),
    [
        ("created", False),
        ("processing", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
        ("timeout", True),
        ("deleted", True),
        ("resting", False),
    ],
)
def test_a_status_is_known_or_means_that_it_is_not_over(status: str, terminal: bool) -> None:
    prediction = Prediction.model_validate({"id": "p1", "status": status})
    assert (prediction.status, prediction.terminal) == (status, terminal)


def test_all_seven_statuses_are_named() -> None:
    named = {word for part in get_args(Status) for word in get_args(part) or [part]}
    assert len(named) == 7
    assert named > TERMINAL


@pytest.mark.parametrize(
    ("created_at", "moment"),
    [
        ("2026-01-01T12:00:00Z", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("2026-01-01T12:00:00.5Z", datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-01T12:00:00.123456789Z", datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)),
        (
            "2026-01-01T12:00:00.999999999+08:00",
            datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=8))),
        ),
        ("2026-01-01T12:00:00.123456789", datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)),
        (1_767_268_800, datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_moment_is_aware_and_may_have_nanoseconds(created_at: Any, moment: datetime | None) -> None:
    assert Prediction.model_validate({"id": "p1", "created_at": created_at}).created_at == moment


@pytest.mark.parametrize(("sent", "code"), [(5004, 5004), ("5004", 5004), ("", 0), (None, 0), ("E1", 0)])
def test_a_code_may_be_a_number_or_its_text(sent: Any, code: int) -> None:
    assert Prediction.model_validate({"id": "p1", "code": sent}).code == code


def test_the_execution_time_stands_in_for_the_timings() -> None:
    assert Prediction.model_validate({"id": "p1", "executionTime": 1200}).inference_ms == 1200


@pytest.mark.parametrize("name", ["input", "inputs"])
def test_the_input_goes_by_either_name(name: str) -> None:
    assert Prediction.model_validate({"id": "p1", name: {"seed": 7}}).input == {"seed": 7}


def test_outputs_are_not_shown() -> None:
    """They are presigned URLs."""
    assert "signature" not in repr(Prediction(id="p1", outputs=["https://example.com/1?signature"]))


def test_a_text_that_looks_like_base64_is_left_alone_outside_an_answer() -> None:
    assert Prediction(id="p1", outputs=["abcd"]).outputs == ["abcd"]
    assert Prediction.model_validate({"id": "p1", "outputs": ["inline:0"]}, context={}).outputs == [
        "inline:0"
    ]


def test_an_answer_without_items_is_not_an_empty_history() -> None:
    assert HistoryPage.model_validate({"items": None}).items == []
    assert HistoryPage.model_validate({"page": 1, "items": []}).items == []
    for garbage in ({}, {"page": 1}, {"items": {"status": "created"}}, {"items": "none"}):
        with pytest.raises(ValidationError):
            HistoryPage.model_validate(garbage)


def test_nothing_costs_less_than_nothing() -> None:
    with pytest.raises(ValidationError):
        Quote(usd=-0.01)


# Errors

ALL_ERRORS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RestyleError)
]


@pytest.mark.parametrize("kind", ALL_ERRORS)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle, copy])
def test_an_error_survives_a_trip_between_processes(kind: type[errors.RestyleError], pickler: Any) -> None:
    error = kind("no luck", job_key="abc", prediction_id="p1", retry_after=3.0, field="size", code=5004)
    error.retryable = not kind.retryable
    error.add_note("and a note")
    again = copy.copy(error) if pickler is copy else pickler.loads(pickler.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert (str(again), again.args) == (str(error), ("no luck",))


def _results() -> list[BaseModel]:
    """What the flows return, read from a bucket that is not there."""
    store = s3_store("b", "x", boto3.Session("test", "test", region_name="us-east-1"))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    restyled = Restyled(
        job_key="k",
        prediction_id="p",
        cached=False,
        cost_usd=0.05,
        seed=1,
        outputs=[Output(uri="s3://b/x/images/a/1.jpeg")],
        metadata_uri="s3://b/x/images/a/metadata.json",
    )
    counted: dict[str, Any] = {"row_count": 1, "counts": {"stored": 1}, "jobs": 1, "images": 1}
    summary = Summary(
        manifest="m", output="o", started=moment, ended=moment, spent_usd=0.05, seconds=1, **counted
    )
    settled = Settled()
    settled.count(SettleOutcome("k", "failed", "no luck"))
    return [with_thumbnails(restyled, store), summary.read_from(store), settled.complete()]


@pytest.mark.parametrize("number", range(3))
def test_a_result_survives_a_trip_between_processes_and_equals_its_like(number: int) -> None:
    result = _results()[number]
    assert result == _results()[number]
    for again in (
        pickle.loads(pickle.dumps(result)),
        cloudpickle.loads(cloudpickle.dumps(result)),
        type(result).model_validate_json(result.model_dump_json()),
        copy.deepcopy(result),
        result.model_copy(deep=True),
    ):
        assert again == result
        if isinstance(again, Restyled):
            assert "s3://b/x/images/a/1.jpeg" in again._repr_html_()
    assert result != result.model_copy(update={"seed": 2, "jobs": 2, "stored": 2})


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_an_error_with_a_message_alone_has_every_attribute(kind: type[errors.RestyleError]) -> None:
    error = kind("no luck")
    assert kind.__doc__
    assert isinstance(error.retryable, bool)
    assert error.job_key is None
    assert error.prediction_id is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("key=topsecret", "key=***"),
        ("https://example.com/1.jpeg?X-Amz-Signature=abc failed", "https://example.com/1.jpeg?… failed"),
        ("https://user:password@example.com/1.jpeg failed", "https://example.com/1.jpeg failed"),
        ("https://example.com?to=me@example.org failed", "https://example.com?… failed"),
        ("two\n  lines\t", "two lines"),
        ("\ud800", "?"),
        (None, "None"),
    ],
)
def test_a_text_from_outside_is_made_safe_to_show(text: Any, shown: str) -> None:
    assert errors.redact(text, "topsecret", "") == shown


def test_a_secret_is_taken_out_before_a_long_text_is_cut() -> None:
    shown = errors.redact("x" * 495 + "topsecret" + "y" * 100, "topsecret")
    assert len(shown) == 500
    assert "top" not in shown
