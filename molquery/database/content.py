"""What makes two rows the same: their vectors and the metadata that they bring."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pyarrow as pa
from xxhash import xxh3_128_hexdigest

from molquery import schema
from molquery.database.arrays import cast_like
from molquery.schema import TableSpec

_DIGITS = 32


def content_hash(vector: bytes | memoryview, metadata: bytes) -> str:
    """The hash of a row's content: 32 hexadecimal digits of its vector, 32 of its metadata."""
    return xxh3_128_hexdigest(vector) + xxh3_128_hexdigest(metadata)


def same_vector(one: str, other: str) -> bool:
    """Whether two content hashes are of rows with the same vector."""
    return one[:_DIGITS] == other[:_DIGITS]


def same_metadata(spec: TableSpec, held: pa.Table, rows: pa.Table, keys: Set[str]) -> set[str]:
    """Those of `keys` whose metadata in `rows` are what the table, read as `held`, has already."""
    names = [c for c in rows.schema.names if not schema.is_internal(c)]
    known = [c for c in names if c in held.schema.names]
    at = {key: i for i, key in enumerate(held[spec.key].to_pylist())}
    rows = rows.filter(pa.array([k in keys for k in rows[spec.key].to_pylist()]))
    ours = {c: held[c].to_pylist() for c in known}
    cast = cast_like(rows.select(known), held.schema)
    theirs = {c: (cast if c in known else rows)[c].to_pylist() for c in names}
    return {
        key
        for i, key in enumerate(theirs[spec.key])
        if all(_equal(theirs[c][i], ours[c][at[key]] if c in ours else None) for c in names)
    }


def _equal(one: Any, other: Any) -> bool:
    """Whether two metadata values are the same; a NaN and a null are both missing."""
    missing = [v is None or v != v for v in (one, other)]
    return all(missing) or bool(one == other)
