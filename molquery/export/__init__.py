"""Results to files and to text: one module per format, all listed in `FORMATS`.

Every file has a sidecar, `<output>.provenance.json`, that says where its rows came from; Parquet
also carries it in its schema. A JSON document holds rows and provenance in one object that the
caller assembles, and is written by `write_json`. Missing values, null and NaN alike, are empty
cells in CSV and TSV and null in JSON, which has no infinity either; Parquet keeps the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.errors import ColumnError, InputError, some
from molquery.export import delimited, geojson, h5ad, jsonl, parquet, r
from molquery.export.document import to_json, write_json
from molquery.export.record import Format
from molquery.files import atomic_path

__all__ = [
    "FORMATS",
    "Format",
    "find",
    "guess",
    "sidecar",
    "to_json",
    "to_text",
    "write",
    "write_json",
]

FORMATS = (
    delimited.TSV, delimited.CSV, parquet.PARQUET, jsonl.JSONL, h5ad.H5AD, geojson.GEOJSON, r.R
)  # fmt: skip


def find(name: str) -> Format:
    """The format called `name`.

    Raises:
        InputError: there is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    raise InputError(f"{name!r} is not a format of tables", hint=", ".join(f.name for f in FORMATS))


def guess(target: Path) -> Format | None:
    """The format that the suffix of `target` stands for, or None."""
    return next((f for f in FORMATS if target.suffix.lower() in f.suffixes), None)


def sidecar(target: Path) -> Path:
    """Where the provenance of `target` is written."""
    return target.with_name(f"{target.name}.provenance.json")


def write(
    table: pa.Table,
    provenance: Mapping[str, Any],
    target: Path,
    format: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write `table` to `target` and its provenance to the sidecar; both are there, or neither.

    Only `target` is guarded by `overwrite`: a sidecar belongs to its file and goes with it.

    Raises:
        OutputError: `target` exists and `overwrite` is false, or it cannot be written.
        InputError: the format is unknown.
        ColumnError: a name stands twice, or a column does not fit into the format.
    """
    chosen = find(format)
    _check(table)
    text = to_json(provenance)
    with atomic_path(sidecar(target)) as beside, atomic_path(target, overwrite=overwrite) as path:
        beside.write_text(text, encoding="utf-8", newline="\n")
        chosen.write(table, provenance, path)


def to_text(table: pa.Table, format: str) -> str:
    """`table` as text for a stream: `tsv`, `csv` or `jsonl`, with a newline after every row.

    Raises:
        InputError: the format is unknown, or is no text.
        ColumnError: a name stands twice, or a column does not fit into the format.
    """
    chosen = find(format)
    _check(table)
    if chosen.chunks is None:
        raise InputError(f"{format} is not text", hint="name a file to write to: --output FILE")
    return "".join(chosen.chunks(table))


def _check(table: pa.Table) -> None:
    names = table.column_names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ColumnError("column names must be unique", found=some(twice))
