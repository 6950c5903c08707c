"""Parquet files that `molquery export` wrote: nothing about them needs to be told again.

The schema metadata say which table it is, the encoder, the genes and the scale of the values. The
shared vectors are left out: they belong to a space, and are projected anew where there is one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molquery.errors import FileFormatError
from molquery.readers import columns, parquet
from molquery.readers.base import Options, Profiles, Reader, Slides
from molquery.readers.guard import reading
from molquery.readers.slide_table import slides_from_table
from molquery.schema import EMBEDDING, PROFILES, SLIDES, TableSpec
from molquery.vectors import Matrix

#: Schema metadata key: the table's name and facts, as JSON.
KEY = b"molquery.table"
#: Column of shared vectors, and the keys of `uns` in .h5ad that hold the stored scale and the model
#: of the RNA embeddings, which are `X_rna_embedding` of `obsm`.
SHARED = "molquery_shared"
SCALE = "molquery_scale"
RNA = "rna_encoder"
RNA_VECTORS = "X_rna_embedding"


def _facts(path: Path, head: bytes) -> dict[str, Any]:
    if not head.startswith(parquet.MAGIC):
        return {}
    try:
        told = (pq.read_schema(path).metadata or {}).get(KEY)
        facts = json.loads(told) if told else {}
    except (pa.ArrowException, OSError, ValueError):
        return {}  # damaged: the reader of all Parquet files says how
    return facts if isinstance(facts, dict) else {}


def _sniff_slides(path: Path, head: bytes) -> bool:
    return _facts(path, head).get("table") == SLIDES.name


def _sniff_profiles(path: Path, head: bytes) -> bool:
    return _facts(path, head).get("table") == PROFILES.name


def _load(path: Path, spec: TableSpec) -> pa.Table:
    table = columns.plain(parquet.load(path, Options()))
    if not {spec.key, spec.vector} <= set(table.schema.names):
        raise FileFormatError(
            f"{path} was exported by molquery but lacks {spec.key} or {spec.vector}"
        )
    return table.drop_columns([c for c in (SHARED,) if c in table.schema.names])


def load_slides(path: Path, options: Options) -> Slides:
    """The slides as they were in the database."""
    table = _load(path, SLIDES)
    return slides_from_table(table, path, replace(options, id=SLIDES.key, vector=SLIDES.vector))


def load_profiles(path: Path, _: Options) -> Profiles:
    """The profiles as they were in the database, in the scale in which they were stored.

    Raises:
        FileFormatError: the file is damaged, or its genes do not fit its vectors.
    """
    facts = _facts(path, parquet.MAGIC)
    table = _load(path, PROFILES)
    with reading(path, "an export of molquery"):
        genes = tuple(str(gene) for gene in facts["genes"])
        values = _matrix(table[PROFILES.vector], len(genes))
        embeddings = None
        if RNA in facts:
            column = table[EMBEDDING]
            embeddings = str(facts[RNA]), _matrix(column, column.type.list_size)
        scale = str(facts["scale"])
    ids = columns.ids_of(table[PROFILES.key], PROFILES.key, path)
    own = (PROFILES.key, PROFILES.vector, EMBEDDING)
    rest = [i for i, n in enumerate(table.column_names) if n not in own]
    metadata = columns.metadata_of(table, rest, path)
    return Profiles(ids, genes, values, metadata, (), str(path), scale, embeddings)


def _matrix(column: pa.ChunkedArray, dim: int) -> Matrix:
    """A list column as (n, dim) float32, NaN for rows without a list."""
    there = column.is_valid().to_numpy()
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    out = np.full((len(column), dim), np.nan, dtype=np.float32)
    out[there] = np.asarray(flat, dtype=np.float32).reshape(-1, dim)
    return out


SLIDES_READER = Reader("molquery export", _sniff_slides, load_slides)
PROFILES_READER = Reader("molquery export", _sniff_profiles, load_profiles)
