"""The rows of a Parquet file, of which no cell is longer than a line of JSON may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_wavespeed.batch.manifest.text import LINE_LIMIT, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

_BATCH = 500  # rows
_SLICE = 50  # rows that are Python's objects at a time
_LARGE = 256 << 20  # bytes of a column in a row group
_MEAN = 1 << 16  # bytes: a cell of a large column has far fewer


def rows_of(path: Path, metadata: FileMetaData, names: Sequence[str]) -> Iterator[dict[str, Any] | str]:
    """The cells of each row by their columns' names; of a row that cannot be read, why.

    Args:
        path: the file.
        metadata: what its end says.
        names: the columns.

    Raises:
        UnreadableError: a column has so much in it that it would take all memory.
    """
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    _check_sizes(metadata, names)
    schema = metadata.schema.to_arrow_schema()
    texts = {name for name in names if types.is_string(schema.field(name).type)}
    # One long text that many rows share is then in memory once. Different ones would take several times as
    # much as they are, so only where there is a long one.
    shared = sorted(_shared(path, metadata, texts))
    with ParquetFile(
        path, metadata=metadata, pre_buffer=False, buffer_size=1 << 20, read_dictionary=shared
    ) as file:
        for batch in file.iter_batches(_BATCH, columns=list(names)):
            too_long = _too_long(batch)
            size = 1 if too_long else _SLICE
            for first in range(0, batch.num_rows, size):
                if first in too_long:
                    yield f"column {too_long[first]} is longer than 1 MB"
                else:
                    yield from _plain(batch.slice(first, size)).to_pylist()


def _shared(path: Path, metadata: FileMetaData, texts: Set[str]) -> set[str]:
    """The columns in which rows may share a text that is too long."""
    shared: set[str] = set()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema
            if (
                name in texts - shared
                and column.total_uncompressed_size > LINE_LIMIT
                and any("DICTIONARY" in way for way in column.encodings)
                and _shares_long_text(path, metadata, number, name)
            ):
                shared.add(name)
    return shared


def _shares_long_text(path: Path, metadata: FileMetaData, group: int, name: str) -> bool:
    """Whether a long text is among those that the rows of a group share; True also if that cannot be told."""
    import pyarrow.compute as pc
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, metadata=metadata, pre_buffer=False, read_dictionary=[name]) as file:
        first = next(file.iter_batches(1, row_groups=[group], columns=[name]), None)
    if first is None:
        return False
    texts = first.column(0).dictionary
    # All that are shared come with the first row, unless that row's text is not one of them.
    return len(texts) < 2 or (pc.max(pc.binary_length(texts)).as_py() or 0) > LINE_LIMIT


def _check_sizes(metadata: FileMetaData, names: Sequence[str]) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for at in range(group.num_columns):
            column = group.column(at)
            name = column.path_in_schema.partition(".")[0]
            if name in names and column.total_uncompressed_size > max(_LARGE, _MEAN * group.num_rows):
                raise UnreadableError(
                    f"column {name} has {column.total_uncompressed_size / 2**20:,.0f} MB in "
                    f"{group.num_rows:,} rows: a cell may have 1 MB: leave it out with ignore_columns={name}"
                )


def _too_long(batch: pa.RecordBatch) -> dict[int, str]:
    """The rows with a cell that is too long, and that cell's column."""
    import pyarrow.compute as pc
    from pyarrow import types

    found: dict[int, str] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if types.is_dictionary(column.type) and not types.is_primitive(column.type.value_type):
            lengths = pc.binary_length(column.dictionary)
            if (pc.max(lengths).as_py() or 0) > LINE_LIMIT:
                long = {at for at, length in enumerate(lengths.to_pylist()) if (length or 0) > LINE_LIMIT}
                rows_and_values = enumerate(column.indices.to_pylist())
                found.update((row, name) for row, value in rows_and_values if value in long)
        elif not types.is_primitive(column.type) and column.nbytes > LINE_LIMIT:
            rows = range(len(column))
            found.update((row, name) for row in rows if column.slice(row, 1).nbytes > LINE_LIMIT)
    return found


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same without dictionaries, and with float16 as float32.

    Python takes three times as long for dictionaries. Without numpy, pyarrow 20 ends the process when it is
    to show a float16.
    """
    from pyarrow import RecordBatch, float32, types

    columns = [
        column.dictionary_decode()
        if types.is_dictionary(column.type)
        else column.cast(float32())
        if types.is_float16(column.type)
        else column
        for column in batch.columns
    ]
    return RecordBatch.from_arrays(columns, names=batch.schema.names)
