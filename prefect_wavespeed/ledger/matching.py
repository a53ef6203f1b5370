"""Whether a prediction is the one that a request created, as far as the API says."""

from __future__ import annotations

from math import isclose
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.job import picture_params
from prefect_wavespeed.urls import without_signature

Match = Literal["yes", "no", "unknown"]

_DEFAULTS = {name: field.default for name, field in ReduxRequest.model_fields.items()}


def compare(
    inputs: dict[str, Any] | None,
    model: str,
    request: ReduxRequest,
    *,
    seed_is_unique: bool,
    image_url_is_kept: bool = False,
) -> Match:
    """Compare what the API says of a prediction with a request.

    Args:
        inputs: what it was asked for; None or empty where the API does not say.
        model: its model; empty where the API does not say.
        request: what was sent.
        seed_is_unique: the seed was derived from the job, so that no other job has it.
        image_url_is_kept: the API is known to tell the image's URL as it was sent.

    Returns:
        "unknown" where the API does not say enough.
    """
    if model not in ("", MODEL):
        return "no"
    if not inputs:
        return "unknown"
    # An API may fill in what was left out, or leave out a default: defaults make both the same.
    given = {name: value for name, value in inputs.items() if value is not None}
    expected = picture_params(request)
    if not all(
        _is_same(name, given.get(name, _DEFAULTS.get(name)), value) for name, value in expected.items()
    ):
        return "no"
    image = given.get("image")
    if isinstance(image, str) and _plain(image) == _plain(request.image):
        return "yes"
    # The API may tell another URL than it was given: its own copy of the picture.
    if seed_is_unique:
        return "yes"
    may_be_moved = not image_url_is_kept and _host(image) != _host(request.image)
    return "unknown" if may_be_moved else "no"


def _is_same(name: str, value: Any, expected: Any) -> bool:
    if isinstance(expected, float):  # 3.3 may come back as 3.29999995
        return isinstance(value, int | float) and isclose(value, expected, rel_tol=1e-6)
    if name == "size":
        return bool(str(value).lower().replace("x", "*") == expected)
    return bool(value == expected)


def _plain(url: str) -> str:
    return unquote(without_signature(url))


def _host(url: object) -> str | None:
    try:
        return urlsplit(str(url)).hostname
    except ValueError:
        return None
