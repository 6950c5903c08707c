"""The whole database to a folder: one Parquet file and one `.h5ad` a table, and scores if asked.

Both hold every row with its own vector, its shared vector where there is a space, and its metadata;
ingesting either into a new database gives the same content. Provenance is in the Parquet schema,
and in `uns` of `.h5ad`. The reader of the Parquet files is `readers/exported.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery import __version__, schema
from molquery.database import Database, list_to_matrix
from molquery.errors import OutputError
from molquery.export.document import to_json
from molquery.export.h5ad import series
from molquery.export.parquet import write as write_parquet
from molquery.files import atomic_path, write_bytes
from molquery.readers.exported import KEY, SCALE, SHARED
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
    for spec in schema.TABLES.values():
        if not database.has(spec):
            continue
        table = _table(database, spec)
        facts = database.facts(spec)
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
    """Every row in key order: key, metadata, own vector, and the shared vector as `shared`."""
    dataset = database.dataset(spec)
    shared = [c for c in dataset.schema.names if c.startswith(schema.SHARED_PREFIX)][-1:]
    names = [c for c in dataset.schema.names if not schema.is_internal(c)]
    table = database.read(spec, [*names, spec.vector, *shared], dataset=dataset)
    return table.rename_columns([*names, spec.vector, *([SHARED] if shared else [])])


def _write_h5ad(
    table: pa.Table, spec: TableSpec, facts: Mapping[str, Any], about: Mapping[str, Any], path: Path
) -> None:
    """Rows in obs, the own vectors in X (genes in var), shared vectors in obsm."""
    import anndata
    import pandas as pd

    vectors = (spec.vector, SHARED)
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
    data = anndata.AnnData(list_to_matrix(table[spec.vector]), obs, var, uns=uns, obsm=obsm)
    data.write_h5ad(path, compression="gzip")
