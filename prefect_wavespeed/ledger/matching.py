"""Whether a prediction is the one that a request created, as far as the API says.

Only what can be read and differs rules a prediction out. What is left out, or cannot be read, leaves doubt: a
wrong "no" would be a second bill.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isclose
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from prefect_wavespeed.api.models import MODEL, ReduxRequest
from prefect_wavespeed.job import picture_params
from prefect_wavespeed.urls import without_signature

Match = Literal["yes", "no", "unknown"]

_DEFAULTS = {name: field.default for name, field in ReduxRequest.model_fields.items()}
_SIZE = re.compile(r"\s*(\d+)\s*[*x×]\s*(\d+)\s*", re.IGNORECASE)
_FORMATS = {"jpg": "jpeg"}


def compare(
    inputs: Mapping[str, Any] | None,
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
        image_url_is_kept: on the host that it was sent with, the image's URL is told as it was sent.

    Returns:
        "unknown" where the API does not say enough.
    """
    if model and _last_part(model) != _last_part(MODEL):
        return "no"
    if not inputs:
        return "unknown"
    given = {name: value for name, value in inputs.items() if value is not None}
    params = compare_params(given, request)
    if "no" in params.values():
        return "no"
    image = compare_image(given.get("image"), request.image, is_kept=image_url_is_kept)
    if seed_is_unique:
        return params["seed"]  # whatever became of the image
    return "unknown" if "unknown" in params.values() and image == "yes" else image


def compare_params(inputs: Mapping[str, Any], request: ReduxRequest) -> dict[str, Match]:
    """Compare each parameter that decides what the picture looks like."""
    return {name: _compare(name, inputs, value) for name, value in picture_params(request).items()}


def compare_image(told: object, sent: str, *, is_kept: bool = False) -> Match:
    """Compare the image's URL: the API may tell a copy of its own, on whatever host."""
    if isinstance(told, str) and _plain(told) == _plain(sent):
        return "yes"
    return "no" if is_kept and _host(told) == _host(sent) else "unknown"


def _compare(name: str, inputs: Mapping[str, Any], expected: Any) -> Match:
    value = inputs.get(name)
    if name == "size" and value is None and {"width", "height"} <= inputs.keys():
        value = f"{inputs['width']}*{inputs['height']}"
    if value is None:  # an API may leave out a default
        return "yes" if expected == _DEFAULTS.get(name) else "unknown"
    read = _read(value, like=expected, name=name)
    if read is None:
        return "unknown"
    # 3.3 may come back as 3.29999995
    same = isclose(read, expected, rel_tol=1e-6) if isinstance(expected, float) else read == expected
    return "yes" if same else "no"


def _read(value: Any, *, like: Any, name: str) -> Any:
    """The value in the form in which it is sent; None where it cannot be read."""
    if name == "size":
        match = _SIZE.fullmatch(str(value))
        return f"{int(match[1])}*{int(match[2])}" if match else None
    if isinstance(like, str):
        text = str(value).strip().lower()
        return _FORMATS.get(text, text) or None
    try:
        return float(value) if isinstance(like, float) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _last_part(model: str) -> str:
    return model.strip().lower().rpartition("/")[2]


def _plain(url: str) -> str:
    return unquote(without_signature(url))


def _host(url: object) -> str | None:
    try:
        return urlsplit(str(url)).hostname
    except ValueError:
        return None
