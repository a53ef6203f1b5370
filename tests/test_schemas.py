"""What is published under docs/ is what is written."""

from __future__ import annotations

import json

import jsonschema
import pytest

from prefect_wavespeed.inspect.schemas import PUBLISHED, schema
from tests.support.schemas import DOCS, check


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    path = DOCS / f"{name}.schema.json"
    renew = f"python -m prefect_wavespeed.inspect.schemas {name} > docs/{path.name}"
    assert json.loads(path.read_text()) == schema(name), f"it changed; renew it: {renew}"


def test_a_side_car_with_a_field_missing_or_a_time_that_is_none_is_not_valid() -> None:
    attempt = {
        "claimed_at": "2026-01-01T00:00:00Z",
        "flow_run_id": None,
        "flow_run_name": None,
        "prediction_id": None,
        "error": None,
    }
    rules = {"$ref": "#/$defs/Attempt", "$defs": schema("metadata")["$defs"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(rules, format_checker=checker)
    assert validator.is_valid(attempt)
    assert not validator.is_valid({**attempt, "claimed_at": "yesterday"})
    assert not validator.is_valid({"claimed_at": attempt["claimed_at"]})
    with pytest.raises(jsonschema.ValidationError):
        check("metadata", b"{}")
