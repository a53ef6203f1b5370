from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from prefect_wavespeed.words import counted, requirement


class Oven(BaseModel):
    heat: int = Field(default=1, ge=1, le=9)
    minutes: float = Field(default=1, gt=0)
    trays: int = Field(default=1, ge=1)
    fan: bool = False
    dish: str = "pie"

    @field_validator("dish")
    @classmethod
    def _is_a_dish(cls, value: str) -> str:
        if value == "stone":
            raise ValueError("must be food")
        return value


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("heat", 10, "must be 1 to 9"),
        ("heat", 0, "must be 1 to 9"),
        ("heat", "hot", "must be a whole number"),
        ("heat", 1.5, "must be a whole number"),
        ("heat", None, "must be a whole number"),
        ("minutes", "long", "must be a number"),
        ("minutes", 0, "must be greater than 0"),
        ("trays", 0, "must be at least 1"),
        ("fan", "perhaps", "must be true or false"),
        ("dish", "stone", "must be food"),
    ],
)
def test_what_a_refused_value_must_be_is_said_in_words(field: str, value: Any, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Oven.model_validate({field: value})
    assert requirement(caught.value.errors()[0], Oven) == expected


def test_without_the_model_only_the_end_of_the_range_that_was_passed_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Oven(heat=10)
    assert requirement(caught.value.errors()[0]) == "must be at most 9"


def test_things_are_counted() -> None:
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
