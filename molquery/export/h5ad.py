"""`.h5ad` (AnnData): rows in `obs`, scores of gene sets in `X`, the provenance in `uns`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.errors import ColumnError, some
from molquery.export.document import to_json
from molquery.export.record import Format

#: Columns that can name the rows, the first one present is taken.
KEYS = ("slide_id", "profile_id", "patient_id")
#: The key of `uns` whose value is the provenance as JSON.
UNS = "molquery"


def write(table: pa.Table, provenance: Mapping[str, Any], path: Path) -> None:
    """Write `table` to `path`.

    The columns that the provenance names as gene sets become `X` (rows x gene sets, float64);
    everything else is in `obs`, where text is categorical and strata keep their order.

    Raises:
        ColumnError: the table has no column of ids, or an id stands twice.
    """
    import anndata
    import pandas as pd

    key = next((name for name in KEYS if name in table.column_names), None)
    if key is None:
        raise ColumnError(
            "a table without ids has no .h5ad form", found=some(table.column_names),
            hint=f"one of {some(KEYS)} names the rows",
        )  # fmt: skip
    ids = table[key].to_pylist()
    if len(set(ids)) < len(ids) or None in ids:
        raise ColumnError(f"{key} must name every row of an .h5ad file, and each only once")
    told = provenance.get("parameters") or {}
    sets = [name for name in told.get("gene_sets") or {} if name in table.column_names]
    obs = pd.DataFrame(
        {c: series(table[c]) for c in table.column_names if c != key and c not in sets},
        index=pd.Index(ids, dtype=object, name=key),
    )
    x = None
    if sets:
        x = np.stack([table[name].to_numpy() for name in sets], axis=1).astype(np.float64)
    var = pd.DataFrame(index=pd.Index(sets, dtype=object))
    data = anndata.AnnData(x, obs, var, uns={UNS: to_json(provenance)})
    save(data, path)


def save(data: Any, path: Path) -> None:
    """Write an AnnData object to `path`.

    HDF5 does not survive a full disk, it takes the process with it: it writes to memory.
    """
    import anndata
    import h5py

    buffer = BytesIO()
    with warnings.catch_warnings(), h5py.File(buffer, "w") as file:
        warnings.simplefilter("ignore", FutureWarning)  # of columns with a slash in their names
        anndata.io.write_elem(file, "/", data, dataset_kwargs={"compression": "gzip"})
    path.write_bytes(buffer.getbuffer())


def series(column: pa.ChunkedArray) -> Any:
    """A column as `.h5ad` can hold it, missing values included."""
    import pandas as pd

    kind = column.type
    if pa.types.is_dictionary(kind):
        levels = column.combine_chunks().dictionary.to_pylist() if len(column) else []
        return pd.Categorical(column.to_pylist(), categories=levels, ordered=kind.ordered)
    if pa.types.is_boolean(kind):
        return pd.array(column.to_pylist(), dtype="boolean")
    if pa.types.is_integer(kind) and column.null_count:
        return pd.array(column.to_pylist(), dtype="Int64")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()
    texts = [None if v is None else str(v) for v in column.to_pylist()]
    return pd.Categorical(texts)


H5AD = Format("h5ad", (".h5ad",), write)
