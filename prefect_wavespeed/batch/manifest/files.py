"""The rows of a manifest file: JSON lines, CSV or Parquet.

Row numbers are what an editor shows: the line in a JSONL or CSV file (a CSV file's header is line 1), a count
from 1 in a Parquet file.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias, cast

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.rows import (
    COLUMNS,
    KINDS,
    BadRow,
    Kind,
    Row,
    RowReader,
    show,
    unknown_column,
)
from prefect_wavespeed.errors import redact

LINE_LIMIT = 1 << 20  # bytes
_PARQUET_BATCH = 500  # rows
_OTHER_SEPARATORS = ";\t|"

FileReader: TypeAlias = Callable[[Path, ReduxParams], Iterator[Row | BadRow]]


class UnreadableError(Exception):
    """What is wrong with a manifest as a whole, and what to do."""


def reader_for(name: str) -> FileReader:
    """The reader for a file, by its name's ending.

    Raises:
        UnreadableError: there is none.
    """
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    if suffix not in _READERS:
        raise UnreadableError(
            f"unsupported file type: give a file that ends in {', '.join(_READERS)}, or s3://bucket/prefix/ "
            "for every image below it"
        )
    return _READERS[suffix]


def _jsonl(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params)
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line.rstrip(), parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:  # its own line number counts within the row
            yield BadRow(number, f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}")
            continue
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"not JSON: {redact(error)}")
            continue
        if isinstance(cells, dict):
            yield reader.read(number, cells)
        else:
            yield BadRow(number, f'{show(cells)} is not a JSON object: give {{"image": "…"}}')


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _csv(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params, from_text=True)
    lines = csv.reader(_lines(path), skipinitialspace=True, strict=True)
    last = 0
    try:
        header = [name.strip() for name in next((cells for cells in lines if any(cells)), [])]
        if len(header) == 1 and any(separator in header[0] for separator in _OTHER_SEPARATORS):
            raise UnreadableError(f"its columns {show(header[0])} are not separated by commas")
        if header:
            _check_columns(header)
        last = lines.line_num
        for cells in lines:
            number, last = last + 1, lines.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                yield BadRow(number, f"{len(cells)} cells, but the header has {len(header)}")
            else:
                yield reader.read(number, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UnreadableError(f"row {last + 1} is not valid CSV: {error}: is a quote not closed?") from None


def _parquet(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    reader, number = RowReader(params), 0
    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            schema = file.schema_arrow
            # pandas stores its index as a column
            columns = [name for name in schema.names if not name.startswith("__index_level_")]
            _check_columns(columns)
            for name in columns:
                _check_type(name, schema.field(name).type)
            for batch in file.iter_batches(_PARQUET_BATCH, columns=columns):
                for cells in batch.to_pylist():
                    number += 1
                    yield reader.read(number, cells)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"not a complete Parquet file: {error}") from None


_READERS: dict[str, FileReader] = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _check_columns(names: Sequence[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise UnreadableError(unknown_column(name))
        if names.count(name) > 1:
            raise UnreadableError(f"column {name!r} appears twice")
    if "image" not in names:
        raise UnreadableError(f"no column 'image': its columns are {', '.join(names)}")


def _check_type(name: str, column_type: Any) -> None:
    """Refuse a column none of whose values could be valid."""
    from pyarrow import types

    value = column_type.value_type if types.is_dictionary(column_type) else column_type
    text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    number = types.is_integer(value) or types.is_floating(value)
    fits: dict[Kind, bool] = {
        "text": text,
        "text or a number": text or number,
        "true or false": types.is_boolean(value),
        "a number": number,
        "a whole number": number,
    }
    if not (fits[KINDS[name]] or types.is_null(value)):
        raise UnreadableError(f"column {name!r} is of type {column_type}: give {KINDS[name]}")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text, gzipped or not, each with its line ending."""
    try:
        with _open(path) as file:
            for number in count(1):
                line = file.readline(LINE_LIMIT)
                if not line:
                    return
                if len(line) == LINE_LIMIT:
                    raise UnreadableError(f"row {number} is longer than 1 MB: put one image on each line")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UnreadableError(f"row {number} is not UTF-8: save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path)) if gzipped else path.open("rb")
