"""Slides from an Arrow table, whichever file it came from.

The vectors are one list column, or many numeric columns; everything else is metadata.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from molquery.errors import ColumnError, MismatchError, some
from molquery.readers import columns, orientation
from molquery.readers.base import Options, Slides
from molquery.vectors import Bools, Matrix

EMPTY = "empty vector"


def slides_from_table(table: pa.Table, path: Path, options: Options) -> Slides:
    """The slides of a table with an id column and vectors.

    Raises:
        ColumnError: a column is missing, ambiguous, or of the wrong type; or ids are missing.
        MismatchError: the rows name more than one encoder.
    """
    table = columns.plain(table)
    id_at = _id_column(table, path, options)
    vector_at = _list_column(table, path, options)
    if vector_at is None:
        numeric = _numeric_columns(table, id_at, path, options)
        vectors = _from_columns(table, numeric)
        there = np.ones(len(vectors), dtype=bool)
    else:
        numeric = [vector_at]
        vectors, there = _from_lists(table, vector_at, path)
    names = table.column_names
    ids = columns.ids_of(table.column(id_at), names[id_at], path)
    drop_id = columns.normal(names[id_at]) not in columns.PATIENT_IDS
    used = {*numeric, id_at} if drop_id else set(numeric)
    rest = [i for i in range(len(names)) if i not in used]
    encoder = _encoder(table, path)
    skipped = {}
    if not there.all():
        skipped[EMPTY] = tuple(ids[i] for i in np.flatnonzero(~there))
        ids = tuple(ids[i] for i in np.flatnonzero(there))
        vectors = vectors[there]
        table = table.filter(pa.array(there))
    metadata = columns.metadata_of(table, rest, path)
    return Slides(ids, vectors, encoder, metadata, skipped, str(path))


def _id_column(table: pa.Table, path: Path, options: Options) -> int:
    names = table.column_names
    if options.id is not None:
        return columns.find(names, options.id, path)
    at = columns.first_of(names, columns.SLIDE_IDS)
    if at is None and names and names[0] == columns.INDEX and columns.are_names(table.column(0)):
        at = 0
    if at is None:
        raise ColumnError(
            f"no column of slide ids in {path}: none is called " + ", ".join(columns.SLIDE_IDS),
            found=some(names, 12),
            hint="name the column with --id",
        )
    return at


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists or pa.types.is_fixed_size_list(kind)) and columns.is_number(kind.value_type)


def _list_column(table: pa.Table, path: Path, options: Options) -> int | None:
    """Position of the list column that holds the vectors; None when numeric columns must."""
    names, kinds = table.column_names, table.schema.types
    lists = [i for i, kind in enumerate(kinds) if _is_list(kind)]
    if options.vector is not None:
        if _is_pattern(options.vector) and options.vector not in names:
            return None
        at = columns.find(names, options.vector, path)
        if at not in lists:
            raise ColumnError(
                f"column {options.vector!r} of {path} holds no vectors",
                found=f"type {kinds[at]}; columns of vectors: "
                + (some(names[i] for i in lists) or "none"),
                hint="name a column of number lists, or a pattern such as --vector 'f*'",
            )
        return at
    if len(lists) > 1:
        raise ColumnError(
            f"several columns of {path} hold vectors",
            found=some(names[i] for i in lists),
            hint="choose one with --vector",
        )
    return lists[0] if lists else None


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _numeric_columns(table: pa.Table, id_at: int, path: Path, options: Options) -> list[int]:
    """Positions of the numeric columns that form the vectors, in their order in the vector.

    Columns that count up (f0, f1, … or 0, 1, …) are put in the order of their numbers, so that
    two files with the columns in another order give the same vectors.
    """
    names = table.column_names
    numeric = [
        i
        for i, kind in enumerate(table.schema.types)
        if i != id_at and (columns.is_number(kind) or pa.types.is_null(kind))
    ]
    if options.vector is not None:
        chosen = [i for i in numeric if fnmatchcase(names[i], options.vector)]
        if not chosen:
            raise ColumnError(
                f"no numeric column of {path} fits {options.vector!r}", found=some(names, 12)
            )
        return _counting(chosen, names) or chosen
    chosen = [i for i in numeric if not columns.is_metadata(names[i])]
    if len(chosen) < columns.FEWEST:
        raise ColumnError(
            f"no slide vectors in {path}: it has no column of number lists, and only "
            f"{len(chosen)} numeric columns that could form a vector",
            found=some(names, 12),
            hint="name the vectors with --vector: a list column, or a pattern such as 'f*'",
        )
    if counting := _counting(chosen, names):
        return counting
    if orientation.holds_genes([names[i] for i in chosen]):
        raise ColumnError(
            f"the numeric columns of {path} are genes: expression, not vectors of slides",
            found=some(names[i] for i in chosen),
            hint="molquery ingest profiles, or name the vectors with --vector",
        )
    return chosen


def _counting(chosen: list[int], names: list[str]) -> list[int]:
    return [chosen[i] for i in columns.counting([names[i] for i in chosen])]


def _from_columns(table: pa.Table, chosen: list[int]) -> Matrix:
    out = np.empty((table.num_rows, len(chosen)), dtype=np.float32)
    for j, i in enumerate(chosen):
        out[:, j] = columns.as_float32(table.column(i))
    return out


def _from_lists(table: pa.Table, at: int, path: Path) -> tuple[Matrix, Bools]:
    """Vectors (n, d) of a list column, and a mask (n,) of the rows that are not empty lists.

    A null list becomes a row of NaN. One chunk without nulls is not copied.
    """
    column, name = table.column(at), table.column_names[at]
    lengths = pc.list_value_length(column).to_numpy()
    known = lengths[lengths > 0]  # null lengths are NaN, and NaN > 0 is false
    if not len(known):
        raise ColumnError(f"column {name!r} of {path} holds no vectors", found="only empty lists")
    if known.min() != known.max():
        odd = int(np.flatnonzero((lengths > 0) & (lengths != known[0]))[0])
        raise ColumnError(
            f"vectors of unequal length in column {name!r} of {path}",
            found=f"{int(known[0])} values at first, {int(lengths[odd])} in data row {odd + 1}",
        )
    dim = int(known[0])
    chunks = [_chunk(chunk, dim) for chunk in column.chunks if len(chunk)]
    vectors = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return np.ascontiguousarray(vectors), np.asarray(lengths != 0)


def _chunk(chunk: pa.Array, dim: int) -> Matrix:
    """One chunk as (n, dim) float32; NaN for null values, and for null and empty lists."""
    # For lists of fixed size too, flatten leaves out null lists and heeds the chunk's offset.
    flat = chunk.flatten().to_numpy(zero_copy_only=False)
    rows = np.asarray(flat, dtype=np.float32).reshape(-1, dim)
    if len(rows) == len(chunk):
        return rows
    filled = pc.fill_null(pc.greater(pc.list_value_length(chunk), 0), False)
    out = np.full((len(chunk), dim), np.nan, dtype=np.float32)
    out[filled.to_numpy(zero_copy_only=False)] = rows
    return out


def _encoder(table: pa.Table, path: Path) -> str | None:
    """The encoder that the schema's metadata or a column called `encoder` names."""
    named = (table.schema.metadata or {}).get(b"encoder")
    if named:
        return str(named.decode(errors="replace"))
    at = columns.first_of(table.column_names, ("encoder",))
    if at is None or not columns.is_text(table.schema.types[at]):
        return None
    values = [value for value in table.column(at).unique().to_pylist() if value]
    if len(values) > 1:
        raise MismatchError(
            f"the rows of {path} come from several encoders",
            found=some(values),
            hint="write one file per encoder",
        )
    return values[0] if values else None
