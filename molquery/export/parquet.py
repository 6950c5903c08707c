"""Parquet, exactly the types of the table, with the provenance in the schema metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.export.document import to_json
from molquery.export.record import Format

#: The schema metadata key whose value is the provenance as JSON.
KEY = b"molquery.provenance"


def write(table: pa.Table, provenance: Mapping[str, Any], path: Path) -> None:
    """Write `table` to `path`, the provenance beside whatever metadata its schema holds."""
    from pyarrow import parquet

    parquet.write_table(
        table.cast(_with_provenance(table.schema, provenance)), path, compression="zstd"
    )


def write_batches(
    rows: Iterable[pa.RecordBatch], schema: pa.Schema, provenance: Mapping[str, Any], path: Path
) -> None:
    """Write batches of rows to `path`, each as a row group of its own."""
    from pyarrow import parquet

    whole = _with_provenance(schema, provenance)
    with parquet.ParquetWriter(path, whole, compression="zstd", use_dictionary=False) as writer:
        for batch in rows:
            writer.write_table(pa.Table.from_batches([batch]).cast(whole))


def _with_provenance(schema: pa.Schema, provenance: Mapping[str, Any]) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), KEY: to_json(provenance).encode()})


PARQUET = Format("parquet", (".parquet", ".pq"), write)
