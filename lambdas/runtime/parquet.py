"""Parquet of a table's rows."""

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from arro3.core import Array, DataType, RecordBatch, Table
from arro3.io import write_parquet

from lambdas.runtime.dynamodb import in_batches

# as Python objects rows are many times the size of what is written
_ROWS_AT_ONCE = 200
_MICROSECONDS = 1_000_000
_TIMESTAMP = DataType.timestamp("us", tz="UTC")
TYPES: Mapping[str, DataType] = {
    "string": DataType.string(),
    "timestamp": _TIMESTAMP,
    "double": DataType.float64(),
    "bigint": DataType.int64(),
    "int": DataType.int32(),
    "boolean": DataType.bool(),
}


def to_parquet(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> bytes:
    """Rows as Parquet; the bytes are a function of them and their order alone.

    Args:
        rows: each with a value, or None, of every column; times are aware.
        columns: Hive type by name, one of `TYPES`.
    """
    batches = [_to_batch(some, columns) for some in in_batches(rows, _ROWS_AT_ONCE)]
    written = io.BytesIO()
    write_parquet(Table.from_batches(batches, schema=_to_batch([], columns).schema), written, compression="zstd(3)")
    return written.getvalue()


def _to_batch(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> RecordBatch:
    return RecordBatch.from_pydict(
        {name: _to_array([row[name] for row in rows], kind) for name, kind in columns.items()}
    )


def _to_array(values: list[Any], kind: str) -> Array:
    if kind != "timestamp":
        return Array(values, type=TYPES[kind])
    moments = [None if one is None else _microseconds(one) for one in values]
    return Array(moments, type=DataType.int64()).cast(_TIMESTAMP)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * _MICROSECONDS)
