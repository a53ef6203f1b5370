"""Lineage: each output is a Prefect Asset, its source the asset that it was made from.

The events are those that ``@materialize`` emits. A task of ours cannot be one of these: what it makes
is known only when it is there, and a chunk of a batch makes hundreds.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid5

from prefect.assets import Asset
from prefect.assets.core import AssetProperties
from prefect.context import AssetContext
from prefect.events import emit_event
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS
from pydantic import ValidationError

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.job import Job, Output, Restyled, picture_params

_NAMESPACE = UUID("aa2f4c4d-1f2a-4d57-8f5e-0a3d8f2f0d5c")
_BY = AssetContext.related_materialized_by("prefect-wavespeed")
# Many pictures may be made of one source, and Prefect's client fails where an event follows upon itself.
_told: dict[UUID, None] = {}
_REMEMBERED = 10_000
_ENCODED = str.maketrans({c: f"={ord(c):02X}" for c in RESTRICTED_ASSET_CHARACTERS})


def asset_events(job: Job, output: str, restyled: Restyled) -> None:
    """Tell Prefect what was made of what. Told again, it is told under the same ids, and so kept once.

    Args:
        job: what was asked for.
        output: the uri of the store.
        restyled: what is stored.
    """
    source = _asset(job.source.uri, job.source.name)
    if source:
        _emit("prefect.asset.referenced", source, f"{output}:{job.source.identity}", [])
    related = [AssetContext.asset_as_related(source)] if source else []
    for number, picture in enumerate(restyled.outputs, 1):
        name = f"{job.name}/{number}.{job.params.output_format}"
        made = _asset(picture.uri, name) if picture.uri else None  # None: a flagged one that was dropped
        if made:
            facts = _facts(job, restyled, picture)
            about = f"{picture.uri}:{restyled.prediction_id}"
            _emit("prefect.asset.materialization.succeeded", made, about, [*related, _BY], facts)


def asset_key(uri: str) -> str | None:
    """A uri, or a directory's path, as the key of an asset; None where it cannot be one.

    Characters that Prefect does not allow are written as ``=20``: a key without them is the uri itself.
    """
    key = uri if "://" in uri else f"file://{uri}"
    if key.startswith("file://"):
        key = unquote(key)
    key = "".join(c if c.isprintable() else f"={ord(c):02X}" for c in key.translate(_ENCODED))
    return key if len(key) <= MAX_ASSET_KEY_LENGTH else None


def _asset(uri: str, name: str) -> Asset | None:
    try:
        key = asset_key(uri)
        return Asset(key=key, properties=AssetProperties(name=name)) if key else None
    except ValidationError:  # lineage is for people: it stops nothing
        return None


def _facts(job: Job, restyled: Restyled, picture: Output) -> dict[str, Any]:
    """What the side-car says of an output. What it cost is known to whoever stored it."""
    cost = {} if restyled.cached else {"cost_usd": restyled.cost_usd}
    return {
        "job_key": job.key,
        "prediction_id": restyled.prediction_id,
        "model": MODEL,
        "source": job.source.uri,
        "metadata_uri": restyled.metadata_uri,
        "variant": job.variant,
        **picture_params(job.params),
        "seed": restyled.seed,
        **cost,
        **picture.model_dump(),
    }


def _emit(
    event: str,
    asset: Asset,
    about: str,
    related: list[dict[str, str]],
    payload: dict[str, Any] | None = None,
) -> None:
    name = uuid5(_NAMESPACE, f"{event}:{about}")
    if name in _told:
        return
    _told[name] = None
    if len(_told) > _REMEMBERED:
        del _told[next(iter(_told))]
    emit_event(
        event=event,
        id=name,
        resource=AssetContext.asset_as_resource(asset),
        related=related,
        payload=payload,
    )
