"""What a format is, and how the values of a table become plain Python values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.errors import ColumnError

#: Rows that are turned into text at once: bounds memory, costs nothing.
BATCH = 16_384


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write a table.

    Attributes:
        name: as in `--format`.
        suffixes: file suffixes that stand for it, lower case.
        write: writes a table and its provenance to a path, which it may replace.
        chunks: the table as pieces of text, or None for a binary format.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[pa.Table, Mapping[str, Any], Path], None]
    chunks: Callable[[pa.Table], Iterator[str]] | None = None


def batches(table: pa.Table) -> Iterator[list[list[Any]]]:
    """The columns of `table` as lists of Python values, a batch of rows at a time.

    NaN becomes None. float32 becomes the shortest decimal that reads back as the same float32
    (0.1, not 0.10000000149011612).

    Raises:
        ColumnError: a column holds bytes.
    """
    for field in table.schema:
        if _is_bytes(field.type):
            raise ColumnError(f"column {field.name} holds bytes", hint="write Parquet")
    for batch in table.to_batches(max_chunksize=BATCH):
        yield [_values(column) for column in batch.columns]


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        floats = column.to_numpy(zero_copy_only=False)
        return [None if v != v else float(str(v)) for v in floats]
    values = column.to_pylist()
    if pa.types.is_floating(kind):
        return [None if v is None or math.isnan(v) else v for v in values]
    return list(values)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )
