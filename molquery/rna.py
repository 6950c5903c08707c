"""Embeddings of an RNA foundation model, kept beside the expression of the same profiles.

They are one column of the profiles table, of one model a database; the column's own metadata name
the model. Signatures are scored in expression, and the space is learned from it: the embeddings are
kept, described and exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from molquery.database import Database, UpsertCounts
from molquery.errors import MismatchError
from molquery.schema import EMBEDDING, PROFILES
from molquery.vectors import Matrix

_ENCODER = "encoder"


@dataclass(frozen=True, slots=True)
class Held:
    """The model of the embeddings that a database keeps, and their dimension."""

    encoder: str
    dim: int


def held(database: Database) -> Held | None:
    """Which embeddings the profiles of a database have, if any."""
    if not database.has(PROFILES):
        return None
    table_schema = database.dataset(PROFILES).schema
    if EMBEDDING not in table_schema.names:
        return None
    field = table_schema.field(EMBEDDING)
    return Held((field.metadata or {})[_ENCODER.encode()].decode(), int(field.type.list_size))


def check(database: Database, encoder: str, dim: int) -> None:
    """Refuse embeddings of another model or dimension than the database keeps.

    Raises:
        MismatchError: they are.
    """
    there = held(database)
    if there is not None and there != Held(encoder, dim):
        raise MismatchError(
            "the profiles of this database have embeddings of another model",
            found=f"{encoder}, {dim} dimensions in the file; {there.encoder}, {there.dim} "
            "dimensions in the database",
            hint="one database keeps the embeddings of one RNA model",
        )


def keep(database: Database, ids: Sequence[str], vectors: Matrix, encoder: str) -> UpsertCounts:
    """Set the embeddings (n, d) of profiles that are in the database, in one commit.

    Raises:
        MismatchError: the database keeps those of another model.
    """
    check(database, encoder, vectors.shape[1])
    with database.writing("ingest embeddings"):
        keys = database.read(PROFILES, [PROFILES.key])[PROFILES.key].to_pylist()
        at = {key: i for i, key in enumerate(keys)}
        rows = [at[i] for i in ids]

        def of(profiles: pa.Table) -> Matrix:
            return whole[[at[key] for key in profiles[PROFILES.key].to_pylist()]]

        if held(database) is None:
            whole = np.full((len(keys), vectors.shape[1]), np.nan, dtype=np.float32)
        else:
            whole = database.matrix(PROFILES, EMBEDDING)
        old = whole[rows]
        new = np.isnan(old).all(axis=1)
        changed = ~new & (old != vectors).any(axis=1)
        if (new | changed).any():
            whole[rows] = vectors
            told = {_ENCODER: encoder}
            database.set_vectors(PROFILES, EMBEDDING, whole.shape[1], [PROFILES.key], of, told=told)
    return UpsertCounts(int(new.sum()), int(changed.sum()), len(ids) - int((new | changed).sum()))
