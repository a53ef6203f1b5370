"""Lineage: each output is a Prefect asset, and its source the asset that it was made from.

The events are those that ``@materialize`` emits. Our tasks cannot use it: which assets they make is known
only once these are stored. Of a large batch, the output as a whole is the asset, made of the manifest.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid5

from cachetools import LRUCache
from prefect.assets import Asset
from prefect.assets.core import AssetProperties
from prefect.context import AssetContext
from prefect.events import emit_event
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS
from pydantic import ValidationError

from prefect_wavespeed.api.models import MODEL
from prefect_wavespeed.batch.report.rows import Summary
from prefect_wavespeed.job import Job, Output, Restyled, picture_params
from prefect_wavespeed.words import printable

_NAMESPACE = UUID("aa2f4c4d-1f2a-4d57-8f5e-0a3d8f2f0d5c")
_MATERIALIZED_BY = AssetContext.related_materialized_by("prefect-wavespeed")
# Ids of events that were emitted. Many pictures may be made of one source, and Prefect's client fails when
# an event follows itself.
_emitted: LRUCache[UUID, None] = LRUCache(maxsize=10_000)
_ENCODED = str.maketrans({c: f"={ord(c):02X}" for c in RESTRICTED_ASSET_CHARACTERS})


def emit_lineage(job: Job, output: str, restyled: Restyled) -> None:
    """Emit which assets were made of which. Emitted again, the events have the same ids and are kept once.

    Args:
        job: what was asked for.
        output: URI of the store.
        restyled: what is stored.
    """
    source = _asset(job.source.uri, job.source.name)
    if source:
        _emit("prefect.asset.referenced", source, f"{output}:{job.source.identity}", [])
    related = [AssetContext.asset_as_related(source)] if source else []
    for picture in restyled.outputs:
        file = (picture.uri or "").rpartition("/")[2]
        asset = _asset(picture.uri, f"{job.name}/{file}") if picture.uri else None  # a dropped one has no URI
        if asset:
            _emit(
                "prefect.asset.materialization.succeeded",
                asset,
                f"{picture.uri}:{restyled.prediction_id}",
                [*related, _MATERIALIZED_BY],
                _metadata(job, restyled, picture),
            )


def emit_batch_lineage(summary: Summary) -> None:
    """Emit that an output was made of a manifest: one event for all pictures that the run has stored."""
    output = _asset(summary.output, summary.output)
    if not (output and summary.images):
        return
    is_named = not summary.manifest.startswith("(")  # a list has no URI
    manifest = _asset(summary.manifest, summary.manifest) if is_named else None
    related = [AssetContext.asset_as_related(manifest)] if manifest else []
    _emit(
        "prefect.asset.materialization.succeeded",
        output,
        f"{summary.report}:{summary.outcome}",
        [*related, _MATERIALIZED_BY],
        {
            "model": MODEL,
            "manifest": summary.manifest,
            "report": summary.report,
            "images": summary.images,
            "spent_usd": summary.spent_usd,
        },
    )


def asset_key(uri: str) -> str | None:
    """The asset key for a URI or a path; None when it would be too long.

    Characters that Prefect does not allow are written as ``=20``; without such characters, the key is the
    URI itself.
    """
    key = uri if "://" in uri else f"file://{uri}"
    if key.startswith("file://"):
        key = unquote(key)
    key = "".join(c if c.isprintable() else f"={ord(c):02X}" for c in key.translate(_ENCODED))
    return key if len(key) <= MAX_ASSET_KEY_LENGTH else None


def _asset(uri: str, name: str) -> Asset | None:
    try:
        key = asset_key(uri)
        return Asset(key=key, properties=AssetProperties(name=printable(name))) if key else None
    except ValidationError:  # no reason to fail a job
        return None


def _metadata(job: Job, restyled: Restyled, picture: Output) -> dict[str, Any]:
    """The side-car's values for an output; the cost only from the run that paid it."""
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
    distinct: str,
    related: list[dict[str, str]],
    payload: dict[str, Any] | None = None,
) -> None:
    event_id = uuid5(_NAMESPACE, f"{event}:{distinct}")
    if event_id in _emitted:
        return
    _emitted[event_id] = None
    emit_event(
        event=event,
        id=event_id,
        resource=AssetContext.asset_as_resource(asset),
        related=related,
        payload=payload,
    )
