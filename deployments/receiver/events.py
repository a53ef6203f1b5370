"""The Prefect events that the receiver sends. Ids derive from the content: repetitions are one event."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

from prefect.events.schemas.events import Event, Resource

from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.api.webhooks import ENDED, seal
from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.deployments.receiver import metrics

OBJECT_CREATED = "restyle.object.created"
for _name in (OBJECT_CREATED, ENDED):
    metrics.EVENTS.labels(_name)  # so that the series begins at 0

_NAMESPACE = UUID("9ba9bbb0-8a9b-4d93-a135-835399ff4bba")


def object_created(created: ObjectCreated) -> Event:
    """``restyle.object.created``: a version of an object was created; the payload is `ObjectCreated`.

    Where the notification does not identify the version, each one is an event of its own: the next may be
    about another version.
    """
    return _event(
        OBJECT_CREATED,
        created.name if created.is_named else f"{created.name}{uuid4()}",
        {
            "prefect.resource.id": created.uri,
            "prefect.resource.name": created.label.rstrip("/").rpartition("/")[2] or created.label,
        },
        created.model_dump(mode="json"),
    )


def prediction_ended(prediction: Prediction, secret: str, *, waited: bool, job_key: str = "") -> Event:
    """``wavespeed.prediction.ended``: a prediction has ended; its result is sealed with the secret.

    Args:
        prediction: the webhook's content.
        secret: the webhook secret.
        waited: whether the run that submitted it waits for it.
        job_key: the job that the webhook's URL names.
    """
    return _event(
        ENDED,
        f"{prediction.id}:{prediction.status}",
        {
            "prefect.resource.id": f"wavespeed.prediction.{prediction.id}",
            "wavespeed.waited": "true" if waited else "false",
        },
        {
            "prediction_id": prediction.id,
            "status": prediction.status,
            "sealed": seal(prediction, secret, job_key),
        },
    )


def _event(name: str, identity: str, resource: dict[str, str], payload: dict[str, object]) -> Event:
    return Event(
        id=uuid5(_NAMESPACE, f"{name}:{identity}"), event=name, resource=Resource(resource), payload=payload
    )
