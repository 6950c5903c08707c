"""Vector columns as arrays and back, column types, and the facts that a table carries."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.arrow import numbers
from molquery.errors import ColumnError
from molquery.vectors import Matrix

#: The key of a table's schema metadata under which its facts are kept, as JSON.
FACTS = b"molquery"


def list_to_matrix(column: pa.ChunkedArray) -> Matrix:
    """A fixed-size-list column as an (n, d) float32 array; missing rows are all NaN."""
    dim = column.type.list_size
    out = np.full((len(column), dim), np.nan, dtype=np.float32)
    start = 0
    for chunk in column.chunks:
        # Not flatten(), is_valid() and to_numpy(), which import pyarrow.compute and pandas.
        flat = numbers(chunk.values)
        rows = flat[chunk.offset * dim : (chunk.offset + len(chunk)) * dim].reshape(-1, dim)
        out[start : start + len(chunk)] = rows
        if chunk.null_count:
            out[start : start + len(chunk)][np.asarray(chunk.is_null())] = np.nan
        start += len(chunk)
    return out


def matrix_to_list(matrix: Matrix) -> pa.FixedSizeListArray:
    """An (n, d) array as a fixed-size-list<float32> column; rows with a NaN first value are null.

    Only whole-row NaN is stored as null, so interpretable features keep their single NaN values.
    """
    flat = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    mask = None
    if np.isnan(matrix[:, 0]).any():
        missing = np.isnan(matrix).all(axis=1)
        mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1], mask=mask)


def cast_like(rows: pa.Table, target: pa.Schema) -> pa.Table:
    """`rows` with every column cast to the type it has in `target`.

    Raises:
        ColumnError: a column cannot be cast without loss.
    """
    for position, name in enumerate(rows.schema.names):
        wanted = target.field(name).type
        if rows.schema.field(name).type == wanted:
            continue
        try:
            rows = rows.set_column(position, name, rows[name].cast(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ColumnError(
                f"column {name} does not fit the column of that name in the database",
                found=f"{rows.schema.field(name).type} in the file, {wanted} in the database",
                hint="rename the column in the file, or make its type agree",
            ) from error
    return rows


def facts_of(table_schema: pa.Schema) -> dict[str, Any]:
    """The facts that a table carries in its schema metadata (see `Database.facts`)."""
    return dict(json.loads((table_schema.metadata or {}).get(FACTS, b"{}")))
