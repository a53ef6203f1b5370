"""Checks what is stored against the schemas that are published under docs/."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator

DOCS = Path(__file__).resolve().parents[2] / "docs"


@cache
def _validator(name: str) -> Draft202012Validator:
    rules = json.loads((DOCS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(rules)
    checker = Draft202012Validator.FORMAT_CHECKER
    assert "date-time" in checker.checkers, "jsonschema needs rfc3339-validator to check times"
    return Draft202012Validator(rules, format_checker=checker)


def check(name: str, data: bytes) -> None:
    """Raise jsonschema.ValidationError unless the JSON is valid against ``docs/{name}.schema.json``."""
    _validator(name).validate(json.loads(data))
