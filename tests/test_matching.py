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
        ({"seed": "7", "num_inference_steps": "28", "guidance_scale": "3.3", "size": "512 * 512"}, "yes"),
        ({"size": None, "width": 512, "height": 512, "output_format": "JPG"}, "yes"),
        ({"size": None, "width": 512, "height": 768}, "no"),
        ({"image": "https://bucket.example/in/other.jpg"}, "unknown"),  # it may be a copy of the API's own
        ({"image": MOVED}, "unknown"),
        ({"image": None}, "unknown"),
        ({"seed": None}, "unknown"),
        ({"seed": "random"}, "unknown"),
        ({"size": "square"}, "unknown"),
        ({"seed": "8"}, "no"),
    ],
    ids=str,
)
def test_what_a_prediction_was_asked_for_decides(changes: dict[str, Any], match: str) -> None:
    assert compare({**INPUTS, **changes}, MODEL, REQUEST, seed_is_unique=False) == match


def test_a_seed_that_only_this_job_has_is_enough_whatever_became_of_the_image() -> None:
    for image in (MOVED, "https://bucket.example/in/other.jpg", None):
        assert compare({**INPUTS, "image": image}, MODEL, REQUEST, seed_is_unique=True) == "yes"
    assert compare({**INPUTS, "seed": 8}, MODEL, REQUEST, seed_is_unique=True) == "no"


def test_where_urls_are_kept_another_image_on_the_same_host_is_another_job() -> None:
    for image, match in (("https://bucket.example/in/other.jpg", "no"), (MOVED, "unknown")):
        told = {**INPUTS, "image": image}
        assert compare(told, MODEL, REQUEST, seed_is_unique=False, image_url_is_kept=True) == match


def test_the_image_alone_is_no_proof() -> None:
    for seed_is_unique in (True, False):
        assert compare({"image": IMAGE}, MODEL, REQUEST, seed_is_unique=seed_is_unique) == "unknown"
    assert compare({"seed": 7}, MODEL, REQUEST, seed_is_unique=True) == "yes"


@pytest.mark.parametrize(
    ("model", "match"), [("flux-redux-dev", "yes"), ("x/Flux-Redux-Dev", "yes"), ("x/y", "no")]
)
def test_a_model_is_known_by_the_last_part_of_its_name(model: str, match: str) -> None:
    assert compare(INPUTS, model, REQUEST, seed_is_unique=False) == match


@pytest.mark.parametrize("inputs", [None, {}], ids=str)
def test_without_inputs_nothing_is_known_but_the_model(inputs: dict[str, Any] | None) -> None:
    assert compare(inputs, MODEL, REQUEST, seed_is_unique=True) == "unknown"
    assert compare(inputs, "", REQUEST, seed_is_unique=True) == "unknown"
    assert compare(inputs, "wavespeed-ai/flux-dev", REQUEST, seed_is_unique=True) == "no"
