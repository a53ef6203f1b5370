"""Which ends of a prediction allow another attempt."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.steps.attempts import allows_another_attempt


@pytest.mark.parametrize(
    ("end", "allows"),
    [
        ({"status": "failed", "code": 5000}, True),
        ({"status": "failed", "code": "5003"}, True),
        ({"status": "failed", "code": 1406}, True),
        ({"status": "timeout"}, True),
        ({"status": "failed", "error": "the model's server answered HTTP 502"}, True),
        ({"status": "failed", "code": None, "error": "upstream: HTTP 429 Too Many Requests"}, True),
        ({"status": "failed", "error": "HTTP 404 for the image"}, False),
        ({"status": "failed", "code": 1402, "error": "the image's server answered HTTP 503"}, False),
        ({"status": "failed", "error": "see https://example.com/http/500"}, False),
        ({"status": "failed", "code": 1200}, False),
        ({"status": "failed"}, False),
        ({"status": "cancelled", "code": 5000}, False),
        ({"status": "deleted"}, False),
        ({"status": "completed"}, False),
    ],
    ids=str,
)
def test_another_attempt_is_made_where_the_failure_may_pass(end: dict[str, Any], allows: bool) -> None:
    assert allows_another_attempt(Prediction.model_validate({"id": "p1", **end})) is allows
