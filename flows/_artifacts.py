"""Artifacts: what a job made, or where it stands, for people who look at a run in Prefect's UI."""

from __future__ import annotations

import asyncio
import base64
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate

from prefect_wavespeed.errors import redact
from prefect_wavespeed.job import Job, Restyled
from prefect_wavespeed.ledger.ledger import Ledger
from prefect_wavespeed.ledger.records import Metadata, OutputInfo
from prefect_wavespeed.quality.thumbnails import thumbnail
from prefect_wavespeed.sources.identify import read_source
from prefect_wavespeed.storage.store import Store
from prefect_wavespeed.words import counted

_WIDTH = 560  # pixels that the UI has for an artifact
_EDGE = 280


async def show_restyled(job: Job, restyled: Restyled, store: Store) -> None:
    """Put up source and results side by side, and the side-car's facts.

    What goes wrong here is logged and no more: the pictures are stored and paid for.
    """
    try:
        metadata = await Ledger(store).done(job)
        if metadata is None:
            return
        await acreate_markdown_artifact(
            await _page(job, restyled, metadata, store),
            key=artifact_key(job),
            description=f"{job.source.name}: {_headline(restyled, metadata)}",
        )
    except Exception as error:
        get_run_logger().warning("no artifact could be made: %s", redact(error))


async def show_standing(job: Job, text: str, flow_run_id: UUID) -> None:
    """Put up where an interrupted job stands. Usable where no run is under way."""
    artifact = ArtifactCreate(
        type="markdown",
        key=artifact_key(job),
        description="Where an interrupted run left its job",
        data=text,
        flow_run_id=flow_run_id,
    )
    async with get_client() as client:
        await client.create_artifact(artifact)


def artifact_key(job: Job) -> str:
    """Key of the job's artifact: lowercase letters, digits and dashes, as Prefect wants it."""
    return f"restyle-{job.name}"


async def _page(job: Job, restyled: Restyled, metadata: Metadata, store: Store) -> str:
    pictures = {}
    edge = min(_EDGE, _WIDTH // (1 + len(metadata.outputs)))
    if source := await _thumbnail(await _source_bytes(job, store), edge):
        pictures["source"] = source
    for number, output in enumerate(metadata.outputs, 1):
        pictures[f"output {number}"] = await _output_picture(output, store, edge)
    facts = "\n".join(f"| {name} | {cell(value)} |" for name, value in _facts(restyled, metadata, store))
    return (
        f"# {cell(job.source.name)}\n\n{_headline(restyled, metadata)}.\n\n"
        f"| {' | '.join(pictures)} |\n|{' --- |' * len(pictures)}\n| {' | '.join(pictures.values())} |\n\n"
        f"| | |\n| --- | --- |\n{facts}\n"
    )


def _headline(restyled: Restyled, metadata: Metadata) -> str:
    count, usd = len(metadata.outputs), metadata.cost.usd
    pictures = counted(count, "picture")
    if restyled.cached:
        return f"{pictures}, stored by an earlier run, nothing billed"
    return f"{pictures} for {usd:g} USD" if usd is not None else pictures


def _facts(restyled: Restyled, metadata: Metadata, store: Store) -> list[tuple[str, object]]:
    request, cost = metadata.request, metadata.cost
    price = "not known" if cost.usd is None else f"{cost.usd:g} USD ({cost.basis})"
    took = metadata.prediction.inference_ms
    return [
        ("Source", metadata.source.uri),
        ("Cost", f"nothing: stored by an earlier run, for {price}" if restyled.cached else price),
        ("Seed", request.seed),
        ("Variant", metadata.variant),
        ("Size", request.size),
        ("Steps", request.num_inference_steps),
        ("Guidance", f"{request.guidance_scale:g}"),
        ("Format", request.output_format),
        *(fact for n, facts in enumerate(metadata.outputs, 1) for fact in _output_facts(n, facts, store)),
        ("Prediction", metadata.prediction.id),
        ("Inference", "not told" if took is None else f"{took / 1000:.1f} s"),
        ("Attempts", len(metadata.attempts)),
        ("Stored", metadata.times.stored.isoformat(timespec="seconds")),
        ("Job", metadata.job_key),
        ("Record", restyled.metadata_uri),
    ]


def _output_facts(number: int, facts: OutputInfo, store: Store) -> list[tuple[str, object]]:
    name = f"Output {number}"
    if facts.key is None:
        return [(name, "dropped: flagged as unsafe for work")]
    flagged = ", flagged as unsafe for work" if facts.nsfw else ""
    # a row each: Prefect's UI cuts off what is wider than the page
    return [
        (name, store.uri_of(facts.key)),
        (f"{name}, picture", f"{facts.width}×{facts.height} pixels, {facts.bytes} bytes{flagged}"),
        (f"{name}, SHA-256", facts.sha256),
    ]


async def _output_picture(facts: OutputInfo, store: Store, edge: int) -> str:
    if facts.nsfw or facts.key is None:
        return "flagged, not shown"
    return await _thumbnail(await store.get(facts.key), edge) or "cannot be shown"


async def _source_bytes(job: Job, store: Store) -> bytes | None:
    try:
        return await read_source(job.source, store)
    except Exception:  # moved, changed, forbidden: it was there when it mattered
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
    """A picture as Markdown, held in the text itself."""
    return f"![](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"


def cell(value: object) -> str:
    """A value as a table's cell: nothing in it is taken for markup."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|!#" else c for c in " ".join(str(value).split()))
