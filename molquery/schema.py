"""Names of tables, columns and files, and the on-disk format version. All of them live here."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

#: Version of the on-disk format; raised when an older molquery could misread a database.
FORMAT_VERSION = 3

MANIFEST = "manifest.json"
LOCK = ".lock"
WRITER = ".writer.json"
VERSIONS = "versions"
SPACES = "spaces"
INDEXES = "indexes"
GENESETS = "genesets"

PATIENT = "patient_id"
COHORT = "cohort"
SITE = "site"
EMBEDDING = "embedding"
EXPRESSION = "expression"
CONTENT_HASH = "content_hash"
SHARED_PREFIX = "shared_"


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One of the two tables of a database: its name, key column and vector column."""

    name: str
    key: str
    vector: str
    noun: str

    def schema(self, dim: int) -> pa.Schema:
        """Arrow schema of the table's own columns, for vectors of `dim` values."""
        return pa.schema(
            [
                pa.field(self.key, pa.string(), nullable=False),
                pa.field(PATIENT, pa.string()),
                pa.field(COHORT, pa.string()),
                pa.field(SITE, pa.string()),
                pa.field(CONTENT_HASH, pa.string(), nullable=False),
                pa.field(self.vector, pa.list_(pa.float32(), dim), nullable=False),
            ]
        )


SLIDES = TableSpec("slides", "slide_id", EMBEDDING, "slide")
PROFILES = TableSpec("profiles", "profile_id", EXPRESSION, "profile")
TABLES = {spec.name: spec for spec in (SLIDES, PROFILES)}


def shared_column(space_id: str) -> str:
    """Name of the column that holds the shared-space vectors of a space."""
    return f"{SHARED_PREFIX}{space_id[:12]}"


def is_internal(column: str) -> bool:
    """True for columns that molquery keeps for itself and that are not metadata."""
    return column in (EMBEDDING, EXPRESSION, CONTENT_HASH) or column.startswith(SHARED_PREFIX)
