"""What became of each row of a batch: ``manifest.jsonl``, ``manifest.parquet``, ``gallery.html``,
``summary.json``, all in the run's folder."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_wavespeed.storage.store import Store

JSONL = "application/x-ndjson"
ROW_GROUP = 5_000  # rows that are held at once while the Parquet file is written

Status = Literal["stored", "done", "submitted", "failed", "open", "unsubmitted", "invalid"]
"""``stored``: by this run; ``done``: stored before; ``submitted``: left to settle; ``failed``: an error, for
good or for this run; ``open``: submitted, unfinished when the run ended; ``unsubmitted``: never sent, because
a cap was reached or the run stopped; ``invalid``: a bad row that was skipped."""


class AccountRow(BaseModel):
    """What became of one row of the manifest: a line of ``manifest.jsonl``, a row of ``manifest.parquet``."""

    row: int = Field(ge=1, description="The row's number in the manifest.")
    id: str | None = Field(default=None, description="The user's own name of it.")
    image: str = Field(description="The source, without its signature.")
    status: Status = Field(
        description="stored: by this run; done: stored before; submitted: left to settle; failed: an error, "
        "for good or for this run; open: submitted, unfinished when the run ended; unsubmitted: never sent; "
        "invalid: a bad row that was skipped."
    )
    variant: int = Field(default=0, ge=0, description="Another picture of the same source: 0, 1, 2, …")
    job_key: str | None = Field(default=None, description="The job; rows with the same one share a picture.")
    prediction_id: str | None = Field(default=None, description="WaveSpeedAI's id of the prediction.")
    seed: int | None = Field(default=None, description="The real seed.")
    outputs: list[str] = Field(default_factory=list, description="Full uris of the pictures.")
    metadata_uri: str | None = Field(default=None, description="Full uri of the side-car.")
    cost_usd: float | None = Field(
        default=None, description="USD that this run paid for it; null when not known."
    )
    attempts: int | None = Field(default=None, description="How often it was submitted.")
    error_type: str | None = Field(default=None, description="The error's name.")
    error_message: str | None = Field(default=None, description="What happened and what to do.")
    seconds: float | None = Field(
        default=None, description="From submission to stored, in seconds; null unless stored by this run."
    )


class Summary(BaseModel):
    """A whole run in figures, ``summary.json``: it exists, so the account is complete."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    manifest: str = Field(description="What was read, without its signature.")
    output: str = Field(description="Where the pictures are.")
    account: str = Field(default="", description="Where the account is.")
    started: datetime
    ended: datetime
    rows: int = Field(ge=0, description="Rows of the manifest.")
    counts: dict[Status, int] = Field(description="Rows by what became of them.")
    errors: dict[str, int] = Field(default_factory=dict, description="Rows that failed, by the error's name.")
    jobs: int = Field(ge=0, description="Distinct jobs among the rows.")
    quoted_usd: float | None = Field(default=None, description="What the price call said, in USD.")
    spent_usd: float = Field(description="What this run paid, in USD.")
    balance_usd: float | None = Field(default=None, description="The account's balance, in USD.")
    latency_p50: float | None = Field(
        default=None, description="Median of the rows' seconds, over those stored by this run."
    )
    latency_p95: float | None = Field(
        default=None, description="95th percentile of the rows' seconds, over those stored by this run."
    )
    images: int = Field(ge=0, description="Pictures stored by this run.")
    images_per_minute: float | None = Field(default=None, description="Pictures stored a minute.")
    seconds: float = Field(ge=0, description="How long the run took.")


@dataclass
class Thumbs:
    """Small JPEGs of a row's pictures.

    Attributes:
        source: of the source; None where there is none.
        outputs: of the outputs, in their options.
    """

    source: bytes | None = field(repr=False, default=None)
    outputs: list[bytes] = field(repr=False, default_factory=list)


Rows = Callable[[], Iterable[tuple[AccountRow, Thumbs | None]]]


def part_path(folder: str, n: int) -> str:
    """Where the ``n``-th part of a running batch's account lies: ``{folder}/parts/00001.jsonl``."""
    return f"{folder}/parts/{n:05}.jsonl"


def encode_part(rows: Iterable[AccountRow]) -> bytes:
    """Rows as lines of JSON."""
    return b"".join(row.model_dump_json().encode() + b"\n" for row in rows)


def decode_part(data: bytes) -> list[AccountRow]:
    """The rows of a part, or of a whole ``manifest.jsonl``."""
    return [AccountRow.model_validate_json(line) for line in data.split(b"\n") if line]


async def write_account(store: Store, folder: str, rows: Rows, summary: Summary) -> None:
    """Write the account of a run, over what an earlier try of the run wrote; the summary last.

    Args:
        store: where it goes.
        folder: the run's folder in it.
        rows: gives every row with its small pictures, in options, anew each time it is called. It is called
            several times, in a thread, and what it gives is not kept: a million rows may come.
        summary: the run in figures.

    Raises:
        StoreError: the store cannot be written now.
    """
    with tempfile.TemporaryDirectory(prefix="restyle-") as name:
        scratch = Path(name)
        await asyncio.to_thread(_write_files, scratch, store.uri, folder, rows, summary)
        for file, content_type in (
            ("manifest.jsonl", JSONL),
            ("manifest.parquet", "application/vnd.apache.parquet"),
            ("gallery.html", "text/html; charset=utf-8"),
        ):
            await store.put_file(f"{folder}/{file}", scratch / file, content_type)
    told = summary.model_dump_json(indent=2).encode() + b"\n"
    await store.put(f"{folder}/summary.json", told, "application/json")


def _write_files(scratch: Path, output: str, folder: str, rows: Rows, summary: Summary) -> None:
    from prefect_wavespeed.batch.gallery import write_gallery

    write_tables(scratch / "manifest.jsonl", scratch / "manifest.parquet", (row for row, _ in rows()))
    write_gallery(scratch / "gallery.html", output, folder, rows, summary)


def write_tables(jsonl: Path, parquet: Path, rows: Iterator[AccountRow]) -> None:
    """Write the same rows as lines of JSON and as Parquet, without holding them all."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("id", pa.string()),
            pa.field("image", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("variant", pa.int64(), nullable=False),
            pa.field("job_key", pa.string()),
            pa.field("prediction_id", pa.string()),
            pa.field("seed", pa.int64()),
            pa.field("outputs", pa.list_(pa.string()), nullable=False),
            pa.field("metadata_uri", pa.string()),
            pa.field("cost_usd", pa.float64()),
            pa.field("attempts", pa.int64()),
            pa.field("error_type", pa.string()),
            pa.field("error_message", pa.string()),
            pa.field("seconds", pa.float64()),
        ]
    )
    with jsonl.open("wb") as lines, ParquetWriter(parquet, schema) as table:
        while group := list(islice(rows, ROW_GROUP)):
            lines.write(encode_part(group))
            table.write_table(pa.Table.from_pylist([row.model_dump() for row in group], schema))
