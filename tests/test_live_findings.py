"""What follows from what an API answered, for answers that no emulator gives; and what a report holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_wavespeed.api.models import ReduxRequest
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.traits import ApiTraits
from prefect_wavespeed.errors import StoreError, UnavailableError
from prefect_wavespeed.inspect.live.call_findings import about_limits, about_unknown_prediction
from prefect_wavespeed.inspect.live.findings import about_delay, about_inputs, about_prediction
from prefect_wavespeed.inspect.live.later import about_billing
from prefect_wavespeed.inspect.live.probing_client import Answer
from prefect_wavespeed.inspect.live.report import (
    Finding,
    LivePicture,
    LiveReport,
    finding,
    load_report,
    not_known,
    report_path,
    shown,
)
from prefect_wavespeed.storage.open_store import directory_store

SENT = ReduxRequest(image="https://cdn.example.com/a%20b.jpg", seed=7, size="512*512")
INPUT = {**SENT.model_dump(), "image": "https://cdn.example.com/a b.jpg?token=secret"}


def received(**fields: Any) -> Prediction:
    """A prediction as it came from the API."""
    body = {"id": "p1", "status": "completed", "outputs": ["https://cdn.example.com/p1/1.jpeg"], **fields}
    return Prediction.model_validate(body, context={"pictures": {}})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in findings}


# --- inputs ---


@pytest.mark.parametrize(
    ("told", "expected", "kept"),
    [
        (INPUT, "the same", True),
        ({**INPUT, "guidance_scale": 3.50000001}, "the same", True),
        ({**INPUT, "prompt": "", "loras": []}, "added: loras, prompt", True),
        (
            {name: value for name, value in INPUT.items() if not name.startswith("enable_")},
            "left out: enable_base64_output, enable_sync_mode",
            True,
        ),
        (
            {**INPUT, "image": "https://other.example.com/1.jpg", "seed": 8},
            "the image has another URL, on other.example.com; changed: seed",
            False,
        ),
        ({"seed": 7}, "the image has another URL, on no host", False),
    ],
)
def test_inputs_are_compared_with_what_was_sent(told: dict[str, Any], expected: str, kept: bool) -> None:
    findings, traits = about_inputs(received(input=told), False, received(inputs=told), SENT)
    assert by_name(findings)["inputs_kept"].found.startswith(expected)
    assert traits == ApiTraits(history_has_inputs=True, result_has_inputs=True, image_url_is_kept=kept)
    assert "secret" not in str(findings)


def test_a_picture_that_is_not_there_any_more_teaches_nothing() -> None:
    findings, traits = about_inputs(None, False, None, SENT)
    assert [one.known for one in findings] == [False, False, False]
    assert traits == ApiTraits()


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, "its job waits for `restyle resolve`"),
        ({"input": INPUT}, "asking for the result of each prediction"),
    ],
)
def test_what_a_silent_history_means_depends_on_the_results(inputs: dict[str, Any], expected: str) -> None:
    findings, _ = about_inputs(received(), True, received(**inputs), SENT)
    assert by_name(findings)["history_inputs"].found == "none, and include_inputs is refused"
    assert expected in by_name(findings)["history_inputs"].means


# --- predictions ---


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "missing"),
        ({"has_nsfw_contents": None}, "null"),
        ({"has_nsfw_contents": False}, "one boolean"),
        ({"has_nsfw_contents": []}, "an empty list"),
        ({"has_nsfw_contents": [False, True]}, "a list of 2 booleans for 1 output"),
        ({"has_nsfw_contents": [None]}, "something else"),
        ({"has_nsfw_contents": "no"}, "something else"),
    ],
)
def test_flags_come_in_many_shapes(fields: dict[str, Any], expected: str) -> None:
    assert by_name(about_prediction(received(**fields), received(**fields), True))["nsfw"].found == expected


def test_outputs_that_are_not_understood_are_shown() -> None:
    odd = received(outputs=[{"image": "x"}])
    found = by_name(about_prediction(odd, odd, None))
    assert found["outputs"].found == 'not understood: [{"image": "x"}]'
    assert not found["output_urls"].known


def test_a_second_call_may_differ_and_sign_its_urls() -> None:
    first, second = (
        received(outputs=[f"https://cdn.example.com/1.jpeg?sig={n}"], timings={"inference": n})
        for n in (1, 2)
    )
    found = by_name(about_prediction(first, second, True))
    assert found["result_again"].found == "differs in timings"
    assert found["output_urls"].found == (
        "new ones in a second call, with a query, such as a signature, no key needed (cdn.example.com)"
    )
    assert "no longer" in by_name(about_prediction(first, first, False))["output_urls"].found


@pytest.mark.parametrize(
    ("seconds", "found", "means"),
    [
        (0.0, "at once", "20 s, which is enough"),
        (4.2, "after 4 s", "20 s, which is enough"),
        (16.0, "after 16 s", "RESTYLE_RECONCILE_SECONDS higher"),
        (None, "not within 30 s", "RESTYLE_RECONCILE_SECONDS higher"),
    ],
)
def test_a_slow_history_needs_a_longer_search(seconds: float | None, found: str, means: str) -> None:
    delay = about_delay(seconds, 30, 20)
    assert delay.found == found
    assert means in delay.means


def test_an_unknown_prediction_that_is_not_recognised_is_to_be_reported() -> None:
    answer = Answer(
        500, {"message": "record 00000000-1111-2222-3333-444444444444 of team@example.com is nil"}
    )
    found = about_unknown_prediction(UnavailableError("…"), answer, "nobodys", str)
    assert found.found == "HTTP 500: record … of … is nil"
    assert "report" in found.means
    assert not about_unknown_prediction(UnavailableError("timed out"), None, "nobodys", str).known


def test_limits_are_known_once_something_tells_of_them() -> None:
    assert not about_limits([], frozenset(), str).known
    assert about_limits([], frozenset({"x-ratelimit-remaining"}), str).known
    slowed = about_limits([Answer(429, {"message": "slow"})], frozenset({"retry-after"}), str)
    assert (slowed.found, slowed.means) == (
        "1 answer of HTTP 429: slow; headers about limits: retry-after",
        "the pause after a 429 is what it says",
    )


# --- the billing ---

PICTURES = [
    LivePicture(name="plain", prediction_id="p1", quoted_usd=0.025),
    LivePicture(name="sync", prediction_id="p2", quoted_usd=0.025, state="failed"),
]


def record(
    prediction_id: str, price: Any, kind: str = "deduct", at: Any = "2026-03-01T12:00:00Z"
) -> dict[str, Any]:
    return {"billing_type": kind, "price": price, "created_at": at, "prediction": {"uuid": prediction_id}}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (
            [
                record("p1", 25000, at="1772366400000"),
                record("p2", 25000),
                record("p2", "25000", "refund", 1),
            ],
            {
                "billing": "for each picture: deduct or deduct, refund",
                "billing_unit": "millionths of a USD; times: RFC 3339, milliseconds as text",
                "billed": "0.025 USD for 2 pictures, quoted 0.025 USD",
            },
        ),
        (
            [record("p1", 0.03)],
            {
                "billing": "not known: for each picture: deduct; none yet for 1 of 2",
                "billing_unit": "USD; times: RFC 3339",
                "billed": "0.03 USD for 1 picture, quoted 0.025 USD",
            },
        ),
        (
            [record("p1", 2.5, at=None), record("p2", None)],
            {
                "billing": "for each picture: deduct",
                "billing_unit": "unclear: 2.5, None; times: RFC 3339, other (None)",
                "billed": "not known: the unit is unclear",
            },
        ),
        (
            [],
            dict.fromkeys(("billing", "billing_unit", "billed"), "not known: no record of the pictures yet"),
        ),
    ],
)
def test_the_billing_tells_unit_times_and_sums(
    records: list[dict[str, Any]], expected: dict[str, str]
) -> None:
    assert {one.name: one.found for one in about_billing(records, PICTURES)} == expected


# --- the report ---


def make_report() -> LiveReport:
    return LiveReport(
        schema=1,
        api="https://api.wavespeed.ai",
        package_version="test",
        asked_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


def test_what_is_known_stays_until_more_is() -> None:
    report = make_report()
    report.add([finding("sync", "waits"), not_known("limits", "nothing seen"), finding("price", "0.025 USD")])
    assert [one.name for one in report.findings] == ["price", "sync", "limits"], "in the order of the table"
    report.add([not_known("sync", "it was submitted earlier"), finding("limits", "a 429")])
    assert {one.name: one.found for one in report.findings} == {
        "price": "0.025 USD",
        "sync": "waits",
        "limits": "a 429",
    }
    report.add_traits(ApiTraits(history_has_inputs=True))
    report.add_traits(ApiTraits(image_url_is_kept=False))
    assert report.traits == ApiTraits(history_has_inputs=True, image_url_is_kept=False)


async def test_a_report_is_read_again_and_one_of_another_version_is_refused(tmp_path: Path) -> None:
    store = directory_store(tmp_path)
    report = make_report()
    assert await load_report(store, report.api) is None
    report.add_picture(PICTURES[0], is_new=True)
    report.add_picture(PICTURES[0], is_new=False)
    report.add_picture(PICTURES[1], is_new=True)
    assert (report.newly_spent_usd, report.spent_usd) == (0.025, 0.025), "what failed is refunded"
    await report.save(store)
    assert report_path(report.api) == "doctor/api.wavespeed.ai.json"
    assert await load_report(store, report.api) == report
    (tmp_path / "doctor" / "api.wavespeed.ai.json").write_text(json.dumps({"schema": 2}))
    with pytest.raises(StoreError, match="move it away"):
        await load_report(store, report.api)


def test_ids_of_accounts_are_not_shown() -> None:
    text = "user_0123456789abcdef0123 (me@example.com) asked for 20f1ed556d6442e88fa8b033323b70af: https://x.y/z?sig=1"
    assert shown(text, "20f1ed556d6442e88fa8b033323b70af") == (
        "… … asked for 20f1ed556d6442e88fa8b033323b70af: https://x.y/z?…"
    )
