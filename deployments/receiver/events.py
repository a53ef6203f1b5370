"""The Prefect events that the receiver makes, under ids by which the same news is one event."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

from prefect.events.schemas.events import Event, Resource

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import ENDED, seal
from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.deployments.receiver import metrics

OBJECT_CREATED = "restyle.object.created"
for _name in (OBJECT_CREATED, ENDED):
    metrics.EVENTS.labels(_name)  # begins at 0

_NAMESPACE = UUID("9ba9bbb0-8a9b-4d93-a135-835399ff4bba")


def object_created(created: ObjectCreated) -> Event:
    """``restyle.object.created``: an object's version was created; the payload is `ObjectCreated`.

    Where nothing names the version, every telling is an event of its own: the next one may be of another.
    """
    return _event(
        OBJECT_CREATED,
        created.name if created.is_named else f"{created.name}{uuid4()}",
        {
            "prefect.resource.id": created.uri,
            "prefect.resource.name": created.key.rstrip("/").rpartition("/")[2] or created.key,
        },
        created.model_dump(mode="json"),
    )


def prediction_ended(prediction: Prediction, secret: str, *, waited: bool) -> Event:
    """``wavespeed.prediction.ended``: a prediction has ended; what it came to is sealed with the secret.

    Args:
        prediction: what the webhook told.
        secret: the webhook secret.
        waited: whether whoever submitted it waits for it.
    """
    return _event(
        ENDED,
        f"{prediction.id}:{prediction.status}",
        {
            "prefect.resource.id": f"wavespeed.prediction.{prediction.id}",
            "wavespeed.waited": "true" if waited else "false",
        },
        {"prediction_id": prediction.id, "status": prediction.status, "sealed": seal(prediction, secret)},
    )


def _event(name: str, about: str, resource: dict[str, str], payload: dict[str, object]) -> Event:
    return Event(
        id=uuid5(_NAMESPACE, f"{name}:{about}"), event=name, resource=Resource(resource), payload=payload
    )
