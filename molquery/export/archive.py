"""The whole database to a folder: one Parquet file and one `.h5ad` a table, and scores if asked.

Both hold every row with its own vector, its shared vector where there is a space, and its metadata;
ingesting either into a new database gives the same content, but that dates become text in `.h5ad`,
which has none. Provenance is in the Parquet schema, and in `uns` of `.h5ad`. The reader of the
Parquet files is `readers/exported.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery import __version__, rna, schema
from molquery.database import Database, list_to_matrix
from molquery.errors import OutputError
from molquery.export.document import to_json
from molquery.export.h5ad import save, series
from molquery.export.parquet import write as write_parquet
from molquery.files import atomic_path, write_bytes
from molquery.readers.exported import KEY, RNA, RNA_VECTORS, SCALE, SHARED
from molquery.schema import PROFILES, SLIDES, TableSpec

FORMATS = ("parquet", "h5ad")


def export_database(
    database: Database,
    folder: Path,
    *,
    formats: Sequence[str] = FORMATS,
    scores: tuple[pa.Table, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the tables of a database, and return the files written.

    Args:
        folder: made if it is not there.
        formats: which of `FORMATS`.
        scores: a table of scores and its provenance, written to `scores.parquet`.
        overwrite: replace files of an earlier export.

    Raises:
        OutputError: the folder holds files already and `overwrite` is false, or it cannot be
            written.
    """
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not empty", hint="another folder, or --overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {folder}", found=error.strerror) from error
    written: list[Path] = []
    database = database.pinned()
    for spec in schema.TABLES.values():
        if not database.has(spec):
            continue
        table = _table(database, spec)
        facts = dict(database.facts(spec))
        if spec is PROFILES and (embeddings := rna.held(database)):
            facts[RNA] = embeddings.encoder
        about = {
            "molquery": __version__, "database": database.path.name, "table": spec.name,
            "version": database.version(spec), "rows": table.num_rows,
        }  # fmt: skip
        if "parquet" in formats:
            told = {KEY: json.dumps({"table": spec.name, **facts}).encode()}
            if spec is SLIDES:
                told[b"encoder"] = str(facts["encoder"]).encode()
            written.append(folder / f"{spec.name}.parquet")
            with atomic_path(written[-1]) as path:
                write_parquet(table.replace_schema_metadata(told), about, path)
        if "h5ad" in formats:
            written.append(folder / f"{spec.name}.h5ad")
            with atomic_path(written[-1]) as path:
                _write_h5ad(table, spec, facts, about, path)
    if scores is not None:
        written.append(folder / "scores.parquet")
        with atomic_path(written[-1]) as path:
            write_parquet(scores[0], scores[1], path)
    listed = {"molquery": __version__, "files": [path.name for path in written]}
    write_bytes(folder / "export.json", to_json(listed).encode())
    return written


def _table(database: Database, spec: TableSpec) -> pa.Table:
    """Every row in key order: key, metadata, its vectors, and the shared vector as `SHARED`."""
    every = database.dataset(spec).schema.names
    shared = [c for c in every if c.startswith(schema.SHARED_PREFIX)][-1:]
    names = [c for c in every if not schema.is_internal(c)]
    names += [c for c in (schema.EXPRESSION, schema.EMBEDDING) if c in every]
    table = database.read(spec, [*names, *shared])
    return table.rename_columns([*names, *([SHARED] if shared else [])])


def _write_h5ad(
    table: pa.Table, spec: TableSpec, facts: Mapping[str, Any], about: Mapping[str, Any], path: Path
) -> None:
    """Rows in obs, the own vectors in X (genes in var), shared vectors and embeddings in obsm."""
    import anndata
    import pandas as pd

    vectors = (spec.vector, schema.EMBEDDING, SHARED)
    columns = [c for c in table.schema.names if c not in (spec.key, *vectors)]
    obs = pd.DataFrame({c: series(table[c]) for c in columns})
    obs.index = pd.Index(table[spec.key].to_pylist(), dtype=object, name=spec.key)
    if spec is PROFILES:
        var = pd.DataFrame(index=pd.Index(facts["genes"], dtype=object))
    else:
        var = pd.DataFrame(index=pd.Index([f"d{i}" for i in range(facts["dim"])], dtype=object))
    uns: dict[str, Any] = {"encoder": str(facts["encoder"]), "molquery": to_json(about)}
    if "scale" in facts:
        uns[SCALE] = str(facts["scale"])
    obsm = {f"X_{SHARED}": list_to_matrix(table[SHARED])} if SHARED in table.schema.names else {}
    if RNA in facts:
        uns[RNA] = facts[RNA]
        obsm[RNA_VECTORS] = list_to_matrix(table[schema.EMBEDDING])
    data = anndata.AnnData(list_to_matrix(table[spec.vector]), obs, var, uns=uns, obsm=obsm)
    save(data, path)
