"""Write the report of a batch into the run's folder.

Its files are ``report.jsonl`` and ``report.parquet`` (the outcome of every row), ``gallery.html`` and
``summary.json``. Without the extra ``parquet`` there is no ``report.parquet``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from prefect_wavespeed.batch.manifest.carried import ColumnType
from prefect_wavespeed.batch.report.gallery import write_gallery
from prefect_wavespeed.batch.report.rows import ReportRow, Rows, Summary, encode_part
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.scratch import scratch_folder
from prefect_wavespeed.storage.store import Store

_log = logging.getLogger(__name__)
JSONL = "application/x-ndjson"
_CARRIED = "carried."
_ROW_GROUP = 5_000  # rows in memory at once while the Parquet file is written


async def write_report(store: Store, folder: str, rows: Rows, summary: Summary) -> None:
    """Write the report of a run, replacing that of an earlier try; the summary last.

    Args:
        store: where it goes.
        folder: the run's folder in it.
        rows: returns every row with its thumbnails, in order, anew each time it is called. It is called
            several times, in a thread, and its rows are not kept: there may be a million.
        summary: the run in figures.

    Raises:
        StoreError: the store cannot be written now.
    """
    with scratch_folder() as scratch:
        await asyncio.to_thread(_write_files, scratch, store.uri, folder, rows, summary)
        for file, content_type in (
            (layout.REPORT_JSONL, JSONL),
            (layout.REPORT_PARQUET, "application/vnd.apache.parquet"),
            (layout.GALLERY, "text/html; charset=utf-8"),
        ):
            if (scratch / file).exists():
                await store.put_file(f"{folder}/{file}", scratch / file, content_type)
    data = summary.model_dump_json(indent=2).encode() + b"\n"
    await store.put(f"{folder}/{layout.SUMMARY}", data, "application/json")


def _write_files(scratch: Path, output: str, folder: str, rows: Rows, summary: Summary) -> None:
    jsonl, table = scratch / layout.REPORT_JSONL, (row for row, _ in rows())
    if find_spec("pyarrow"):
        _write_tables(jsonl, scratch / layout.REPORT_PARQUET, table, summary.carried)
    else:
        _log.info("no %s: pip install 'prefect-wavespeed[parquet]'", layout.REPORT_PARQUET)
        with jsonl.open("wb") as lines:
            lines.writelines(encode_part([row]) for row in table)
    write_gallery(scratch / layout.GALLERY, output, folder, rows, summary)


def _write_tables(
    jsonl: Path, parquet: Path, rows: Iterator[ReportRow], carried: Mapping[str, ColumnType]
) -> None:
    """Write the same rows as lines of JSON and as Parquet, without holding them all.

    In Parquet, each carried column is one of its own, ``carried.NAME``.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
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
            pa.field("warnings", pa.list_(pa.string()), nullable=False),
            pa.field("warning_outputs", pa.list_(pa.int64()), nullable=False),
            pa.field("flagged", pa.list_(pa.int64()), nullable=False),
            pa.field("metadata_uri", pa.string()),
            pa.field("cost_usd", pa.float64()),
            pa.field("attempts", pa.int64()),
            pa.field("error_type", pa.string()),
            pa.field("error_message", pa.string()),
            pa.field("error_code", pa.int64()),
            pa.field("attempt_errors", pa.list_(pa.string()), nullable=False),
            pa.field("retryable", pa.bool_()),
            pa.field("seconds", pa.float64()),
            *(pa.field(f"{_CARRIED}{name}", types[type_]) for name, type_ in carried.items()),
        ]
    )
    with jsonl.open("wb") as lines, ParquetWriter(parquet, schema) as table:
        while group := list(islice(rows, _ROW_GROUP)):
            lines.write(encode_part(group))
            columns = [_column(field.name, group) for field in schema]
            arrays = [pa.array(cells, field.type) for cells, field in zip(columns, schema, strict=True)]
            table.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _column(name: str, rows: Sequence[ReportRow]) -> list[Any]:
    if name.startswith(_CARRIED):
        own = name.removeprefix(_CARRIED)
        return [row.carried.get(own) for row in rows]
    return [getattr(row, name) for row in rows]
