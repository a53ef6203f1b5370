"""How the API shows what it has: predictions, inputs and bills, in the dialects that are spoken."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.emulator.dialects import Dialects
from prefect_wavespeed.emulator.prediction import Prediction, timestamp

_MOVED = "https://static.wavespeed.example/inputs"


def prediction_object(prediction: Prediction, base_url: str, dialects: Dialects) -> dict[str, Any]:
    """The prediction as every call shows it."""
    completed = prediction.status == "completed"
    code, error = prediction.code, prediction.error
    if "failed-without-code" in dialects and code >= 5000:
        code, error = 0, f"the model's server answered HTTP 502 ({error})"
    return {
        "id": prediction.id,
        "model": MODEL,
        "outputs": _outputs(prediction, base_url, dialects) if completed else [],
        "urls": {"get": f"{base_url}/api/v3/predictions/{prediction.id}/result"},
        "has_nsfw_contents": _nsfw(prediction, dialects) if completed else None,
        "status": prediction.status,
        "created_at": timestamp(prediction.created),
        "error": error,
        "code": code,
        "executionTime": prediction.inference_ms,
        "timings": {"inference": prediction.inference_ms},
    }


def _outputs(prediction: Prediction, base_url: str, dialects: Dialects) -> str | list[Any]:
    if prediction.inline is not None:
        outputs = prediction.inline
    else:
        folder = f"{base_url}/cdn/predictions/{prediction.id}"
        if "renewed-urls" in dialects:
            folder += "/0" if prediction.fault == "expired" and not prediction.handed_out else "/1"
        outputs = [f"{folder}/{number}.{one.format}" for number, one in enumerate(prediction.pictures, 1)]
    if "outputs-string" in dialects and len(outputs) == 1:
        return outputs[0]
    return [{"url": output} for output in outputs] if "outputs-objects" in dialects else outputs


def _nsfw(prediction: Prediction, dialects: Dialects) -> bool | list[bool] | None:
    flagged = prediction.fault == "nsfw"
    if "nsfw-boolean" in dialects:
        return flagged
    return [flagged] * len(prediction.pictures) if flagged or "nsfw-list" in dialects else None


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


class Bill(NamedTuple):
    """A record of the billings call, and when it was made, in Unix nanoseconds."""

    created: int
    record: dict[str, Any]


def bills(prediction: Prediction, dialects: Dialects) -> list[Bill]:
    """What a prediction was billed, and that it was refunded."""
    if "billing-final-price" in dialects:
        price = 0.0 if prediction.refunded else prediction.price
        return [_bill(prediction, "deduct", price, prediction.created, dialects)]
    found = [_bill(prediction, "deduct", prediction.price, prediction.created, dialects)]
    if prediction.refunded:
        found.append(_bill(prediction, "refund", prediction.price, prediction.completed_at, dialects))
    return found


def _bill(prediction: Prediction, kind: str, usd: float, moment: int, dialects: Dialects) -> Bill:
    price, origin = (
        round(amount * 1_000_000) if "billing-millionths" in dialects else amount
        for amount in (usd, prediction.price)
    )
    created_at = str(moment // 1_000_000) if "billing-milliseconds" in dialects else timestamp(moment)
    record = {
        "uuid": f"{kind}_{prediction.id}",
        "billing_type": kind,
        "price": price,
        "created_at": created_at,
        "updated_at": created_at,
        "order": {"state": "done", "price": price, "origin_price": origin, "status": ""},
        "access_key_name": "",
        "prediction": {"uuid": prediction.id, "model_uuid": MODEL, "status": prediction.status},
    }
    return Bill(moment, record)
