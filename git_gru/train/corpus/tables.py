"""Tables: the columns of a CSV file (with a header, by Python's own reader) or a Parquet file (by pyarrow, an extra)."""

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

from git_gru.errors import MachineError
from git_gru.train.corpus.files import DataError

_FIELD_LIMIT = 1 << 24


class ParquetMissingError(MachineError):
    """pyarrow is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is a Parquet file, and reading it needs pyarrow, which is not installed here",
            hint="Install it beside git-gru (pip install pyarrow), or keep the data as CSV.",
        )


def read_table(data: bytes, name: str, wanted: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    """The columns of a file: name → values, texts where it is CSV. `wanted`: key of the recipe → name of a column.

    Raises `DataError` (what is wrong, and in which row), `ParquetMissingError`.
    """
    table = _parquet(data, name, wanted) if name.endswith((".parquet", ".pq")) else _csv(data, name, wanted)
    if not next(iter(table.values()), ()):
        raise DataError(f"{name} has no rows")
    return table


def decoded(data: bytes, name: str) -> str:
    """`data` as text. Raises `DataError` where it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}",
            hint="Convert it, for example with iconv -f latin1 -t utf-8.",
        ) from error


def _csv(data: bytes, name: str, wanted: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(decoded(data, name), newline=""), strict=True)
    columns: dict[str, list[str]] = {column: [] for column in wanted.values()}
    try:
        header = next(reader, [])
        _check_columns(header, name, wanted)
        places = [(columns[column], header.index(column)) for column in columns]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{name}: line {reader.line_num} has {len(row)} fields, and the header has {len(header)}"
                )
            for values, place in places:
                values.append(row[place])
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num} is no CSV: {error}") from error
    return dict(columns)


def _parquet(data: bytes, name: str, wanted: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ParquetMissingError(name)
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        _check_columns(file.schema_arrow.names, name, wanted)
        table = file.read(columns=list(wanted.values()))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no readable Parquet file: {error}") from error
    return {column: table.column(column).to_pylist() for column in wanted.values()}


def _check_columns(header: Sequence[str], name: str, wanted: Mapping[str, str]) -> None:
    for key, column in wanted.items():
        if column not in header:
            raise DataError(
                f"{name} has no column {column!r} ({key}); it has {', '.join(map(repr, header)) or 'none'}"
            )
        if list(header).count(column) > 1:
            raise DataError(f"{name} has more than one column {column!r} ({key})")
