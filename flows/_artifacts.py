"""Artifacts of a job, for people who look at its run in Prefect's UI: its pictures, or its status."""

from __future__ import annotations

import asyncio
import base64
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate

from prefect_wavespeed.errors import redact
from prefect_wavespeed.flows._said import run_log
from prefect_wavespeed.job import Job, Restyled
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.ledger.records import Metadata, OutputInfo
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.sources.identify import read_source
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted, markdown

_PAGE_WIDTH = 560  # pixels that the UI gives to an artifact
_MAX_EDGE = 280


async def publish_restyled(job: Job, restyled: Restyled, store: Store) -> None:
    """Publish source and outputs side by side, and the side-car's values.

    Errors are only logged: the pictures are stored and paid for.
    """
    try:
        metadata = await Ledger(store).side_car(job)
        if metadata is None:
            return
        await acreate_markdown_artifact(
            await _page(job, restyled, metadata, store),
            key=artifact_key(job),
            description=f"{markdown(job.source.name)}: {_headline(restyled, metadata)}",
        )
    except Exception as error:
        run_log().warning("the artifact of job %s cannot be created: %s", job.label, redact(error))


async def publish_job_status(job: Job, text: str, flow_run_id: UUID) -> None:
    """Publish the status of an interrupted job, from any process."""
    artifact = ArtifactCreate(
        type="markdown",
        key=artifact_key(job),
        description="Status of the job of an interrupted run",
        data=text,
        flow_run_id=flow_run_id,
    )
    async with get_client() as client:
        await client.create_artifact(artifact)


def artifact_key(job: Job) -> str:
    """Key of the job's artifact: lowercase letters, digits and dashes, which are all that Prefect allows."""
    return f"restyle-{job.name}"


async def _page(job: Job, restyled: Restyled, metadata: Metadata, store: Store) -> str:
    pictures = {}
    edge = min(_MAX_EDGE, _PAGE_WIDTH // (1 + len(metadata.outputs)))
    if source := await _thumbnail(await _source_bytes(job, store), edge):
        pictures["source"] = source
    for number, output in enumerate(metadata.outputs, 1):
        pictures[f"output {number}"] = await _output_picture(output, store, edge)
    rows = "\n".join(f"| {name} | {markdown(value)} |" for name, value in _rows(restyled, metadata, store))
    return (
        f"# {markdown(job.source.name)}\n\n{_headline(restyled, metadata)}.\n\n"
        f"| {' | '.join(pictures)} |\n|{' --- |' * len(pictures)}\n| {' | '.join(pictures.values())} |\n\n"
        f"| | |\n| --- | --- |\n{rows}\n"
    )


def _headline(restyled: Restyled, metadata: Metadata) -> str:
    count, usd = len(metadata.outputs), metadata.cost.usd
    pictures = counted(count, "picture")
    if restyled.cached:
        return f"{pictures}, stored by an earlier run, not billed again"
    return f"{pictures} for {usd:g} USD" if usd is not None else pictures


def _rows(restyled: Restyled, metadata: Metadata, store: Store) -> list[tuple[str, object]]:
    request, cost = metadata.request, metadata.cost
    price = "unknown" if cost.usd is None else f"{cost.usd:g} USD ({cost.basis})"
    inference_ms = metadata.prediction.inference_ms
    return [
        ("Source", metadata.source.uri),
        ("Cost", f"none: stored by an earlier run, for {price}" if restyled.cached else price),
        ("Seed", request.seed),
        ("Variant", metadata.variant),
        ("Size", request.size),
        ("Steps", request.num_inference_steps),
        ("Guidance", f"{request.guidance_scale:g}"),
        ("Format", request.output_format),
        *(row for n, output in enumerate(metadata.outputs, 1) for row in _output_rows(n, output, store)),
        *(("Warning", warning.line) for warning in metadata.warnings),
        ("Prediction", metadata.prediction.id),
        ("Inference", "unknown" if inference_ms is None else f"{inference_ms / 1000:.1f} s"),
        ("Attempts", len(metadata.attempts)),
        ("Stored", metadata.times.stored.isoformat(timespec="seconds")),
        ("Job", metadata.job_key),
        ("Side-car", restyled.metadata_uri),
    ]


def _output_rows(number: int, output: OutputInfo, store: Store) -> list[tuple[str, object]]:
    name = f"Output {number}"
    if output.key is None:
        return [(name, "dropped: flagged as unsafe for work")]
    flagged = ", flagged as unsafe for work" if output.nsfw else ""
    # a row for each value: Prefect's UI cuts off what is wider than the page
    return [
        (name, store.uri_of(output.key)),
        (f"{name}, picture", f"{output.width}×{output.height} pixels, {output.bytes} bytes{flagged}"),
        (f"{name}, SHA-256", output.sha256),
    ]


async def _output_picture(output: OutputInfo, store: Store, edge: int) -> str:
    if output.nsfw or output.key is None:
        return "flagged, not shown"
    if layout.is_quarantined(output.key):
        return "not checked, not shown"
    return await _thumbnail(await store.get(output.key), edge) or "cannot be shown"


async def _source_bytes(job: Job, store: Store) -> bytes | None:
    try:
        return await read_source(job.source, store)
    except Exception:  # moved, changed or forbidden by now
        return None


async def _thumbnail(data: bytes | None, edge: int) -> str | None:
    if data is None:
        return None
    try:
        small = await asyncio.to_thread(thumbnail, data, edge)
    except Exception:
        return None
    return picture(small)


def picture(jpeg: bytes) -> str:
    """A picture as Markdown, embedded in the text."""
    return f"![](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"
