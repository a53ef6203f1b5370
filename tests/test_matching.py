"""Whether a prediction is the one that a request created: decided by what the API says, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.ledger.matching import compare

IMAGE = "https://bucket.example/in/a%20b.jpg"
REQUEST = ReduxRequest(image=IMAGE, seed=7, size="512*512", guidance_scale=3.3)
INPUTS = REQUEST.model_dump()
MOVED = "https://cdn.vendor.example/9f/1.jpg"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, "yes"),
        ({"image": f"{IMAGE}?X-Amz-Signature=abc"}, "yes"),
        ({"image": "https://bucket.example/in/a b.jpg"}, "yes"),
        ({"guidance_scale": 3.29999995, "size": "512x512"}, "yes"),
        ({"num_images": None, "output_format": None}, "yes"),  # left out: they are the defaults
        ({"enable_base64_output": True, "enable_sync_mode": True}, "yes"),  # the pictures are the same
        ({"seed": 8}, "no"),
        ({"size": "512*768"}, "no"),
        ({"num_images": 2}, "no"),
        ({"image": "https://bucket.example/in/other.jpg"}, "no"),
        ({"image": MOVED}, "unknown"),
        ({"image": None}, "unknown"),
    ],
    ids=str,
)
def test_what_a_prediction_was_asked_for_decides(changes: dict[str, Any], match: str) -> None:
    assert compare({**INPUTS, **changes}, MODEL, REQUEST, seed_is_unique=False) == match


def test_a_seed_that_only_this_job_has_is_enough_whatever_became_of_the_image() -> None:
    for image in (MOVED, "https://bucket.example/in/other.jpg", None):
        assert compare({**INPUTS, "image": image}, MODEL, REQUEST, seed_is_unique=True) == "yes"
    assert compare({**INPUTS, "seed": 8}, MODEL, REQUEST, seed_is_unique=True) == "no"


def test_where_the_api_is_known_to_keep_urls_another_image_is_another_job() -> None:
    moved = {**INPUTS, "image": MOVED}
    assert compare(moved, MODEL, REQUEST, seed_is_unique=False, image_url_is_kept=True) == "no"


@pytest.mark.parametrize("inputs", [None, {}], ids=str)
def test_without_inputs_nothing_is_known_but_the_model(inputs: dict[str, Any] | None) -> None:
    assert compare(inputs, MODEL, REQUEST, seed_is_unique=True) == "unknown"
    assert compare(inputs, "", REQUEST, seed_is_unique=True) == "unknown"
    assert compare(inputs, "wavespeed-ai/flux-dev", REQUEST, seed_is_unique=True) == "no"
