"""How the API shows what it has: the prediction object and its bill, in the dialects that are spoken."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.emulator.dialects import Dialects
from prefect_wavespeed.emulator.prediction import Prediction, timestamp

_MOVED = "https://static.wavespeed.example/inputs"


def prediction_object(prediction: Prediction, base_url: str, dialects: Dialects) -> dict[str, Any]:
    """The prediction as every call shows it."""
    completed = prediction.status == "completed"
    return {
        "id": prediction.id,
        "model": MODEL,
        "outputs": _outputs(prediction, base_url) if completed else [],
        "urls": {"get": f"{base_url}/api/v3/predictions/{prediction.id}/result"},
        "has_nsfw_contents": [prediction.fault == "nsfw"] * len(prediction.pictures) if completed else None,
        "status": prediction.status,
        "created_at": timestamp(prediction.created),
        "error": prediction.error,
        "code": prediction.code,
        "executionTime": prediction.inference_ms,
        "timings": {"inference": prediction.inference_ms},
    }


def _outputs(prediction: Prediction, base_url: str) -> list[str]:
    if prediction.inline is not None:
        return prediction.inline
    edition = int(prediction.handed_out or prediction.fault != "expired")
    return [
        f"{base_url}/cdn/outputs/{prediction.id}/{edition}/{number}.{prediction.request.output_format}"
        for number in range(1, len(prediction.pictures) + 1)
    ]


def told_by_result(prediction: Prediction, dialects: Dialects) -> dict[str, Any]:
    """What the result call tells beside the prediction object."""
    if "result-without-inputs" in dialects:
        return {}
    return {"inputs" if "result-says-inputs" in dialects else "input": told_input(prediction, dialects)}


def told_by_history(prediction: Prediction, dialects: Dialects) -> dict[str, Any]:
    """What the history tells beside the prediction object when it is asked to include inputs."""
    if "history-without-inputs" in dialects:
        return {}
    return {"inputs" if "history-says-inputs" in dialects else "input": told_input(prediction, dialects)}


def told_input(prediction: Prediction, dialects: Dialects) -> Mapping[str, Any]:
    """The input as the API tells it."""
    if "image-moved" not in dialects:
        return prediction.input
    image = str(prediction.input.get("image", ""))
    return {**prediction.input, "image": f"{_MOVED}/{hashlib.sha256(image.encode()).hexdigest()}.jpg"}


def bill(prediction: Prediction) -> dict[str, Any]:
    """The item of the billings call."""
    price = 0.0 if prediction.refunded else prediction.price
    return {
        "uuid": f"bill_{prediction.id}",
        "billing_type": "deduct",
        "price": price,
        "created_at": timestamp(prediction.created),
        "updated_at": timestamp(prediction.created),
        "order": {"state": "done", "price": price, "origin_price": prediction.price, "status": ""},
        "access_key_name": "",
        "prediction": {"uuid": prediction.id, "model_uuid": MODEL, "status": prediction.status},
    }
