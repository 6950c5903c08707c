"""Parquet, exactly the types of the table, with the provenance in the schema metadata."""

from __future__ import annotations

from collections.abc import Mapping
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

    metadata = {**(table.schema.metadata or {}), KEY: to_json(provenance).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


PARQUET = Format("parquet", (".parquet", ".pq"), write)
