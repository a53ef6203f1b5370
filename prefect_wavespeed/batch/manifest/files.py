"""The rows of a manifest file: JSON lines, a JSON array, CSV or Parquet.

Row numbers are what an editor shows: the line in a JSONL or CSV file (a CSV file's header is line 1), a count
from 1 in the others.
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
from prefect_wavespeed.batch.manifest.cells import rows_of
from prefect_wavespeed.batch.manifest.columns import KINDS, Columns
from prefect_wavespeed.batch.manifest.rows import BadRow, Row, RowReader
from prefect_wavespeed.batch.manifest.text import BROKEN, TOO_LONG, UnreadableError, lines, pieces
from prefect_wavespeed.batch.manifest.values import Kind, show, strip
from prefect_wavespeed.errors import redact
from prefect_wavespeed.words import counted

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_SEPARATORS = ",;\t|"
_MAX_ARRAY = 64 << 20  # characters
_NOT_TEXT = "not UTF-8: save the file as UTF-8"
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

FileReader: TypeAlias = Callable[[Path, ReduxParams, Columns], Iterator[Row | BadRow]]


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
            f"unsupported file type: give a file that ends in {', '.join(_READERS)}, or a folder, a pattern "
            "or s3://bucket/prefix/ for every image in it"
        )
    return _READERS[suffix]


def _jsonl(path: Path, params: ReduxParams, columns: Columns) -> Iterator[Row | BadRow]:
    reader = RowReader(params, columns=columns)
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
            yield BadRow(number, _json_problem(error))
            continue
        yield _json_row(number, cells, reader)


def _json_row(number: int, cells: Any, reader: RowReader) -> Row | BadRow:
    if isinstance(cells, dict):
        return reader.read(number, cells)
    return BadRow(number, f'{show(cells)} is not a JSON object: give {{"image": "…"}}')


def _json(path: Path, params: ReduxParams, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of a JSON array. It has no lines to read one at a time, so it is read whole, up to a size."""
    text = ""
    for piece in pieces(path):
        text += piece
        if len(text) > _MAX_ARRAY:
            raise UnreadableError(f"over {_MAX_ARRAY >> 20} MB: save it as JSON lines (.jsonl)")
    if BROKEN in text:
        raise UnreadableError(_NOT_TEXT)
    try:
        rows = json.loads(text if text.strip() else "[]", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        hint = ": if it is lines of JSON, name it .jsonl" if "Extra data" in str(error) else ""
        raise UnreadableError(f"{_json_problem(error)}{hint}") from None
    if not isinstance(rows, list):
        raise UnreadableError(f'{show(rows)} is not a JSON array: give [{{"image": "…"}}, …]')
    reader = RowReader(params, columns=columns)
    for number, cells in enumerate(rows, 1):
        yield _json_row(number, cells, reader)


def _broken(line: str) -> str | None:
    if TOO_LONG in line:
        return "longer than 1 MB: put one image on each line"
    return _NOT_TEXT if BROKEN in line else None


def _json_problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, _NotANumberError | json.JSONDecodeError):
        return f"not JSON: {redact(error)}"
    return "it holds a number with too many digits"  # Python converts no more than 4,300


class _NotANumberError(ValueError):
    pass


def _refuse_constant(name: str) -> Any:
    raise _NotANumberError(f"{name} is not a number")


def _csv(path: Path, params: ReduxParams, columns: Columns) -> Iterator[Row | BadRow]:
    reader = RowReader(params, from_text=True, columns=columns)
    text = lines(path)
    first, skipped, separator = _beginning(text, columns)
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
            header = _header(cells, columns)
        elif any(strip(cell) for cell in cells):
            yield _csv_row(number, header, cells, reader, decimal_comma=separator != ",")


def _beginning(text: Iterator[str], columns: Columns) -> tuple[str, int, str]:
    """The line with the header, how many lines are before it, and the separator."""
    separator = ""
    for skipped, line in enumerate(text):
        if not strip(line):
            continue
        if not separator and (excel := _SEPARATOR_LINE.fullmatch(line.rstrip("\r\n"))):
            separator = excel[1]
            continue
        return line, skipped, separator or _separator(line, columns)
    return "", 0, ","


def _separator(header: str, columns: Columns) -> str:
    """What divides a header into the most known columns; the first of the best is taken."""

    def known(separator: str) -> int:
        return sum(strip(strip(name).strip('"')) in columns.known for name in strip(header).split(separator))

    return max(_SEPARATORS, key=known)


def _header(cells: Sequence[str], columns: Columns) -> list[str]:
    if BROKEN in "".join(cells):
        raise UnreadableError(f"its first line is {_NOT_TEXT}")
    header = [strip(name) for name in cells]
    _check_columns(header, columns)
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
        known = reader.columns.known
        for name, cell in row.items():
            if KINDS.get(known.get(name, "")) == "a number" and _DECIMAL_COMMA.fullmatch(strip(cell)):
                row[name] = cell.replace(",", ".")
    return reader.read(number, row)


def _parquet(path: Path, params: ReduxParams, columns: Columns) -> Iterator[Row | BadRow]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import read_metadata
    except ImportError:
        raise UnreadableError("Parquet needs pyarrow: pip install 'prefect-wavespeed[parquet]'") from None

    reader = RowReader(params, columns=columns)
    try:
        metadata = read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        # pandas stores its index as a column
        names = [name for name in schema.names if not name.startswith("__index_level_")]
        _check_columns(names, columns)
        exact = {}
        for name in filter(columns.wants, names):
            _check_type(name, schema.field(name).type, columns)
            exact[name] = _exact(schema.field(name).type)
        for number, cells in enumerate(rows_of(path, metadata, list(exact)), 1):
            if isinstance(cells, str):
                yield BadRow(number, cells)
            else:
                yield reader.read(number, {name: exact[name](cell) for name, cell in cells.items()})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"not a complete Parquet file: {error}") from None


_READERS: dict[str, FileReader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _check_columns(names: Sequence[str], columns: Columns) -> None:
    if refusal := columns.refusal_of_header(names):
        raise UnreadableError(refusal)


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


def _check_type(name: str, column_type: Any, columns: Columns) -> None:
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
    known = columns.known.get(name)
    if known and not (fits[KINDS[known]] or types.is_null(value)):
        raise UnreadableError(f"column {name!r} is of type {column_type}: give {KINDS[known]}")
    if not known and (types.is_binary(value) or types.is_large_binary(value)):
        raise UnreadableError(
            f"column {name!r} is of type {column_type}: bytes cannot be carried: leave it out with "
            f"ignore_columns={name}"
        )
