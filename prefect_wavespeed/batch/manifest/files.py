"""The rows of a manifest file: JSON lines, CSV or Parquet.

Row numbers are what an editor shows: the line in a JSONL or CSV file (a CSV file's header is line 1), a count
from 1 in a Parquet file.
"""

from __future__ import annotations

import csv
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from prefect_wavespeed.api.models import ReduxParams
from prefect_wavespeed.batch.manifest.rows import (
    COLUMNS,
    KINDS,
    THE_COLUMNS,
    BadRow,
    Kind,
    Row,
    RowReader,
    is_nameless,
    show,
    strip,
    unknown_columns,
)
from prefect_wavespeed.batch.manifest.text import BROKEN, TOO_LONG, UnreadableError, lines
from prefect_wavespeed.errors import redact
from prefect_wavespeed.words import counted

_PARQUET_BATCH = 500  # rows
_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_SEPARATORS = ",;\t|"
_NOT_TEXT = "not UTF-8: save the file as UTF-8"
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

FileReader: TypeAlias = Callable[[Path, ReduxParams], Iterator[Row | BadRow]]


def reader_for(name: str) -> FileReader:
    """The reader for a file, by its name's ending.

    Raises:
        UnreadableError: there is none.
    """
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    if suffix in _SPREADSHEETS:
        raise UnreadableError("it is a spreadsheet: save it as CSV")
    if suffix not in _READERS:
        raise UnreadableError(
            f"unsupported file type: give a file that ends in {', '.join(_READERS)}, or s3://bucket/prefix/ "
            "for every image below it"
        )
    return _READERS[suffix]


def _jsonl(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params)
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        if problem := _broken(line):
            yield BadRow(number, problem)
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


def _broken(line: str) -> str | None:
    if line == TOO_LONG:
        return "longer than 1 MB: put one image on each line"
    return _NOT_TEXT if BROKEN in line else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _csv(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    reader = RowReader(params, from_text=True)
    text = lines(path)
    first, skipped, separator = _beginning(text)
    if not first:
        return
    rows = csv.reader(chain([first], text), delimiter=separator, skipinitialspace=True, strict=True)
    header: list[str] = []
    last = skipped
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            number, last = last + 1, skipped + rows.line_num
            if not header or "end of data" in str(error):  # all that follows may belong to this row
                raise UnreadableError(
                    f"row {number} is not valid CSV: {error}: is a quote not closed?"
                ) from None
            yield BadRow(number, f"not valid CSV: {error}")
            continue
        if cells is None:
            return
        number, last = last + 1, skipped + rows.line_num
        if not header:
            header = _header(cells)
        elif any(strip(cell) for cell in cells):
            yield _csv_row(number, header, cells, reader, decimal_comma=separator != ",")


def _beginning(text: Iterator[str]) -> tuple[str, int, str]:
    """The line with the header, how many lines are before it, and the separator."""
    separator = ""
    for skipped, line in enumerate(text):
        if not strip(line):
            continue
        if not separator and (excel := _SEPARATOR_LINE.fullmatch(line.rstrip("\r\n"))):
            separator = excel[1]
            continue
        return line, skipped, separator or max(_SEPARATORS, key=lambda char: _known_columns(line, char))
    return "", 0, ","


def _known_columns(line: str, separator: str) -> int:
    """How many known columns a header has if it is divided by that; the first of the best is taken."""
    return sum(strip(strip(name).strip('"')) in COLUMNS for name in strip(line).split(separator))


def _header(cells: Sequence[str]) -> list[str]:
    if BROKEN in "".join(cells):
        raise UnreadableError(f"its first line is {_NOT_TEXT}")
    header = [strip(name) for name in cells]
    _check_columns(header)
    return header


def _csv_row(
    number: int, header: Sequence[str], cells: list[str], reader: RowReader, *, decimal_comma: bool
) -> Row | BadRow:
    if problem := _broken("".join(cells)):
        return BadRow(number, problem)
    while len(cells) > len(header) and not strip(cells[-1]):  # as spreadsheets write them
        cells.pop()
    if len(cells) != len(header):
        return BadRow(number, f"{counted(len(cells), 'cell')}, but the header has {len(header)}")
    row = dict(zip(header, cells, strict=True))
    if decimal_comma:  # where a comma does not separate, it may be that of 2,7
        for name, cell in row.items():
            if KINDS.get(name) == "a number" and _DECIMAL_COMMA.fullmatch(strip(cell)):
                row[name] = cell.replace(",", ".")
    return reader.read(number, row)


def _parquet(path: Path, params: ReduxParams) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    reader, number = RowReader(params), 0
    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            schema = file.schema_arrow
            # pandas stores its index as a column
            columns = [name for name in schema.names if not name.startswith("__index_level_")]
            columns = [name for name in columns if not is_nameless(name)]
            _check_columns(columns)
            exact = {}
            for name in columns:
                _check_type(name, schema.field(name).type)
                exact[name] = _exact(schema.field(name).type)
            for batch in file.iter_batches(_PARQUET_BATCH, columns=columns):
                for cells in batch.to_pylist():
                    number += 1
                    yield reader.read(number, {name: exact[name](cell) for name, cell in cells.items()})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"not a complete Parquet file: {error}") from None


_READERS: dict[str, FileReader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _check_columns(names: Sequence[str]) -> None:
    named = [name for name in names if not is_nameless(name)]
    if unknown := [name for name in named if name not in COLUMNS]:
        raise UnreadableError(f"{unknown_columns(unknown)}; {THE_COLUMNS}")
    for name in named:
        if named.count(name) > 1:
            raise UnreadableError(f"column {name!r} appears twice")
    if "image" not in named:
        raise UnreadableError(f"no column 'image': its columns are {', '.join(named)}")


def _exact(column_type: Any) -> Callable[[Any], Any]:
    """Gives a cell as the number that it shows: 2.7 as float32 is 2.700000047683716 for Python."""
    from pyarrow import types

    value = column_type.value_type if types.is_dictionary(column_type) else column_type
    if types.is_float32(value):
        return lambda cell: cell if cell is None else _shortest(cell, "f")
    if types.is_float16(value):
        return lambda cell: cell if cell is None else _shortest(float(cell), "e")
    if types.is_decimal(value):
        return lambda cell: cell if cell is None else int(cell) if cell == int(cell) else float(cell)
    return lambda cell: cell


def _shortest(number: float, form: str) -> float:
    """The shortest decimal that is this number in ``struct``'s format."""
    for digits in range(1, 10):
        shown = float(f"{number:.{digits}g}")
        with suppress(OverflowError):
            if struct.unpack(form, struct.pack(form, shown))[0] == number:
                return shown
    return number


def _check_type(name: str, column_type: Any) -> None:
    """Refuse a column none of whose values could be valid."""
    from pyarrow import types

    value = column_type.value_type if types.is_dictionary(column_type) else column_type
    text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    number = types.is_integer(value) or types.is_floating(value) or types.is_decimal(value)
    fits: dict[Kind, bool] = {
        "text": text,
        "text or a number": text or number,
        "true or false": types.is_boolean(value),
        "a number": number,
        "a whole number": number,
    }
    if not (fits[KINDS[name]] or types.is_null(value)):
        raise UnreadableError(f"column {name!r} is of type {column_type}: give {KINDS[name]}")
