"""JSON lines: one object per row, UTF-8, missing values and NaN as null."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.export.document import plain
from molquery.export.record import Format, batches


def chunks(table: pa.Table) -> Iterator[str]:
    """The rows of `table`, a batch at a time."""
    names = table.column_names
    for columns in batches(table):
        rows = zip(*columns, strict=True)
        yield "".join(
            json.dumps(plain(dict(zip(names, row, strict=True))), ensure_ascii=False) + "\n"
            for row in rows
        )


def write(table: pa.Table, provenance: Mapping[str, Any], path: Path) -> None:
    """Write the rows of `table` to `path`; the provenance is in the sidecar."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(chunks(table))


JSONL = Format("jsonl", (".jsonl", ".ndjson"), write, chunks)
