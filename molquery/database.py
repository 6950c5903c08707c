"""The database: two Lance tables (the truth) and a manifest of what is derived from them.

Here: create, open, read, upsert, join metadata, filter, versions, the manifest and its lock. Not
here: reading user files (`molquery.readers`), scoring (`molquery.query`). This is the only module
that imports lance and lancedb.

Facts about a table that must never be parted from its rows (encoder, dimension, gene panel, scale)
are kept in the table's own schema metadata. The manifest names spaces and indexes, and records for
each table the version at which its rows or vectors last changed, so that a metadata join does not
make derived files stale. A manifest that lags behind a table (a process was killed between the two
writes) makes derived files look stale, never fresh.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molquery import schema
from molquery.errors import ColumnError, DatabaseError, FilterError, printable
from molquery.files import atomic_path, sha256_file, write_bytes
from molquery.schema import TableSpec
from molquery.vectors import Matrix

_FACTS = b"molquery"
_LOCK_SECONDS = 60.0
_SIDECARS = "sidecars"


@dataclass(frozen=True, slots=True)
class UpsertCounts:
    """How many rows an upsert inserted, updated, and left alone because nothing differed."""

    inserted: int
    updated: int
    unchanged: int


class Database:
    """An archive on disk. Reads see the newest committed version unless a version is named."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Database:
        """A new, empty database in a directory that does not exist yet or is empty.

        Raises:
            DatabaseError: something is there already, or the directory cannot be made.
        """
        root = Path(path)
        if (root / schema.MANIFEST).exists():
            raise DatabaseError(
                f"{root} is a molquery database already", hint="molquery info, or another path"
            )
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DatabaseError(f"{root} exists and is not empty", hint="give a path for a new one")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"cannot make {root}", found=error.strerror) from error
        database = cls(root)
        manifest = {
            "format_version": schema.FORMAT_VERSION, "tables": {}, "spaces": {}, "indexes": {}
        }  # fmt: skip
        database._write_manifest(manifest)
        return database

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Database:
        """The database at `path`; never creates anything.

        Raises:
            DatabaseError: there is none, or its format version is not known to this molquery.
        """
        root = Path(path)
        if not (root / schema.MANIFEST).is_file():
            near = _nearest_database(root)
            if root.is_dir():
                what = f"{root} is not a molquery database (it has no {schema.MANIFEST})"
            else:
                what = f"there is no database at {root}"
            hint = f"--db {near}" if near else f"molquery --db {root} init, to make a new one"
            raise DatabaseError(what, hint=hint)
        database = cls(root)
        version = database.manifest()["format_version"]
        if version != schema.FORMAT_VERSION:
            age = "a newer" if version > schema.FORMAT_VERSION else "an older"
            raise DatabaseError(
                f"{root} has {age} on-disk format than this molquery reads",
                found=f"format {version}; this molquery reads format {schema.FORMAT_VERSION}",
                hint="use the molquery that made it, or ingest the files into a new database",
            )
        return database

    # The manifest ------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest as it is on disk now."""
        try:
            manifest = json.loads((self.path / schema.MANIFEST).read_text("utf-8"))
            if not isinstance(manifest["format_version"], int):
                raise TypeError("its format_version is no number")
            if manifest["format_version"] == schema.FORMAT_VERSION:
                manifest["tables"], manifest["spaces"], manifest["indexes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatabaseError(
                f"the manifest of {self.path} is damaged",
                found=f"no {error}" if isinstance(error, KeyError) else str(error),
                hint="restore manifest.json from a backup; the tables themselves are not touched",
            ) from error
        return dict(manifest)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the database's write lock; waits for another writer for up to a minute."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / schema.LOCK, timeout=_LOCK_SECONDS, is_singleton=True)
        try:
            with lock:
                yield
        except Timeout as error:
            raise DatabaseError(
                f"another process has been writing to {self.path} for over {_LOCK_SECONDS:.0f} s",
                hint="wait for it to end, then run the same command again",
            ) from error
        except PermissionError as error:
            raise DatabaseError(
                f"{self.path} cannot be written", found=error.strerror, hint="check its permissions"
            ) from error

    def update_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Apply `change` to the manifest under the write lock and store it atomically."""
        with self.writing():
            manifest = self.manifest()
            change(manifest)
            self._write_manifest(manifest)

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        content = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        write_bytes(self.path / schema.MANIFEST, content.encode())

    # Reading -----------------------------------------------------------------------------------

    def has(self, spec: TableSpec) -> bool:
        """True when rows of this table have been ingested."""
        return spec.name in self.manifest()["tables"]

    def dataset(self, spec: TableSpec, version: int | None = None) -> Any:
        """The Lance dataset of a table, at its newest or a given version.

        Raises:
            DatabaseError: the table is empty, or its files are damaged.
        """
        if not self.has(spec):
            raise DatabaseError(
                f"{self.path} holds no {spec.name} yet",
                hint=f"molquery ingest {spec.name} FILE --id COLUMN",
            )
        return self._open_table(spec, version)

    def _open_table(self, spec: TableSpec, version: int | None = None) -> Any:
        import lance

        try:
            return lance.dataset(str(self.path / f"{spec.name}.lance"), version=version)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(spec, error) from error

    def _damaged(self, spec: TableSpec, error: Exception) -> DatabaseError:
        return DatabaseError(
            f"the {spec.name} table of {self.path} cannot be read",
            found=printable(str(error).split("/home")[0], 300),
            hint="restore the directory from a backup",
        )

    def version(self, spec: TableSpec) -> int:
        """The table's newest version number, from the names of its manifests.

        Lance names them by version, or by 2^64 - 1 - version so that the newest comes first. To
        read the names is all that most queries need of Lance, which takes long to import.
        """
        try:
            names = os.listdir(self.path / f"{spec.name}.lance" / "_versions")
        except OSError:
            names = []
        numbers = [int(n[:-9]) for n in names if n.endswith(".manifest") and n[:-9].isdigit()]
        if not numbers:
            return int(self.dataset(spec).version)
        return max(n if n < 2**63 else 2**64 - 1 - n for n in numbers)

    def vectors_version(self, spec: TableSpec) -> int:
        """The version at which rows or vectors last changed; later ones changed metadata only."""
        version = self.version(spec)
        entry = self.manifest()["tables"].get(spec.name, {})
        return int(entry["vectors_version"]) if entry.get("version") == version else version

    def facts(self, spec: TableSpec) -> dict[str, Any]:
        """What holds for every row: encoder, kind, dim of slides; genes, scale of profiles."""
        return facts_of(self.dataset(spec).schema)

    def metadata_columns(self, spec: TableSpec) -> list[str]:
        """The names of the columns that a filter may use."""
        return [c for c in self.dataset(spec).schema.names if not schema.is_internal(c)]

    def count(self, spec: TableSpec, where: str | None = None) -> int:
        """The number of rows, or of those that satisfy a filter."""
        if where is None:
            return int(self.dataset(spec).count_rows())
        return len(self.read(spec, [spec.key], where=where))

    def read(
        self,
        spec: TableSpec,
        columns: Sequence[str],
        *,
        where: str | None = None,
        dataset: Any = None,
    ) -> pa.Table:
        """Columns of the rows that satisfy a SQL filter, ordered by the table's key.

        Raises:
            FilterError: the filter is not valid SQL or names an unknown column.
        """
        dataset = dataset or self.dataset(spec)
        names = list(dict.fromkeys([spec.key, *columns]))
        try:
            table = dataset.scanner(columns=names, filter=where).to_table()
        except (OSError, ValueError, RuntimeError) as error:
            if where is None:
                raise self._damaged(spec, error) from error
            raise self._bad_filter(spec, where, str(error)) from error
        keys = table[spec.key].to_numpy()
        order = np.argsort(keys, kind="stable")
        if (order[1:] < order[:-1]).any():  # rows are mostly stored in key order: then no copy
            table = table.take(pa.array(order))
        return table.select(list(dict.fromkeys(columns)))

    def read_sidecar(self, spec: TableSpec, columns: Sequence[str]) -> pa.Table:
        """As `read`, from the sidecar file of the table when it is current, whole and has them.

        The result is memory-mapped and carries the table's facts as schema metadata.
        """
        entry = self.manifest().get(_SIDECARS, {}).get(spec.name)
        path = self._sidecar(spec)
        if (
            entry is not None
            and entry["vectors_version"] == self.vectors_version(spec)
            and set(columns) <= set(entry["columns"])
            and path.is_file()
            and sha256_file(path) == entry["sha256"]
        ):
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all().select(columns)
        dataset = self.dataset(spec)
        table = self.read(spec, columns, dataset=dataset)
        return table.replace_schema_metadata(dataset.schema.metadata)

    def write_sidecar(self, spec: TableSpec, columns: Sequence[str]) -> None:
        """Keep columns of a table in an Arrow file that opens without Lance."""
        dataset = self.dataset(spec)
        with self.writing():
            table = self.read(spec, columns, dataset=dataset)
            table = table.replace_schema_metadata(dataset.schema.metadata)
            path = self._sidecar(spec)
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as temporary, pa.ipc.new_file(temporary, table.schema) as file:
                file.write_table(table)
            entry = {
                "columns": list(table.schema.names),
                "vectors_version": self.vectors_version(spec),
                "sha256": sha256_file(path),
            }
            self.update_manifest(lambda m: m.setdefault(_SIDECARS, {}).update({spec.name: entry}))

    def _sidecar(self, spec: TableSpec) -> Path:
        return self.path / schema.INDEXES / f"{spec.name}.arrow"

    def _bad_filter(self, spec: TableSpec, where: str, text: str) -> FilterError:
        columns = ", ".join(self.metadata_columns(spec))
        if "No field named" in text:
            name = text.split("No field named")[1].split(".")[0].strip(" '\"`")
            what = f"--where names a column that the {spec.name} do not have: {printable(name)}"
        else:
            reason = text.removeprefix("Invalid user input: ").split(", /")[0]
            what = f"--where cannot be evaluated: {printable(reason, 200)}"
        return FilterError(
            what,
            found=f"--where {printable(where)}",
            hint=f"the columns are: {columns}; text goes in single quotes (cohort = 'TCGA-LUAD')",
        )

    def matrix(self, spec: TableSpec, column: str, *, dataset: Any = None) -> Matrix:
        """A vector column as an (n, d) float32 array, rows ordered by the table's key.

        Rows whose vector is missing are all NaN.
        """
        return list_to_matrix(self.read(spec, [column], dataset=dataset)[column])

    # Writing -----------------------------------------------------------------------------------

    def upsert(self, spec: TableSpec, rows: pa.Table, facts: Mapping[str, Any]) -> UpsertCounts:
        """Insert new rows and update those whose content differs, in one commit.

        `rows` holds the spec's own columns, unique keys, and any metadata columns. A row is left
        alone when its content hash is the one held, or when its vector and every metadata value
        that it brings are. The first upsert fixes `facts`; the caller has checked that later ones
        agree.
        """
        hashes = dict(
            zip(
                rows[spec.key].to_pylist(),
                rows[schema.CONTENT_HASH].to_pylist(),
                strict=True,
            )
        )
        if len(hashes) != len(rows):
            raise AssertionError("keys must be unique before an upsert")
        with self.writing():
            if not self.has(spec):
                self._create_table(spec, rows, facts)
                self._record_version(spec, vectors_changed=True)
                return UpsertCounts(len(rows), 0, 0)
            held = self.read(spec, [spec.key, schema.CONTENT_HASH]).to_pydict()
            old = dict(zip(held[spec.key], held[schema.CONTENT_HASH], strict=True))
            new = [k not in old for k in hashes]
            differ = {k for k, h in hashes.items() if k in old and old[k] != h}
            differ -= self._same(spec, rows, {k for k in differ if _same_vector(old[k], hashes[k])})
            changed = [k in differ for k in hashes]
            mask = np.array(new) | np.array(changed)
            if mask.any():
                columns = self._with_missing_columns(spec, rows.filter(pa.array(mask)))
                # Lance's own merge: LanceDB's refuses NaN, which means "missing" in features.
                merge = self.dataset(spec).merge_insert(spec.key).when_matched_update_all()
                merge.when_not_matched_insert_all().execute(columns)
                self._record_version(spec, vectors_changed=True)
            return UpsertCounts(sum(new), sum(changed), len(hashes) - int(mask.sum()))

    def _same(self, spec: TableSpec, rows: pa.Table, keys: Set[str]) -> set[str]:
        """Those of `keys` whose metadata in `rows` are what the table holds already."""
        if not keys:
            return set()
        dataset = self.dataset(spec)
        names = [c for c in rows.schema.names if not schema.is_internal(c)]
        known = [c for c in names if c in dataset.schema.names]
        held = self.read(spec, known, dataset=dataset)
        at = {key: i for i, key in enumerate(held[spec.key].to_pylist())}
        rows = rows.filter(pa.array([k in keys for k in rows[spec.key].to_pylist()]))
        ours = {c: held[c].to_pylist() for c in known}
        cast = cast_like(rows.select(known), dataset.schema)
        theirs = {c: (cast if c in known else rows)[c].to_pylist() for c in names}
        there = [(i, key, at[key]) for i, key in enumerate(theirs[spec.key])]
        return {
            key
            for i, key, j in there
            if all(_equal(theirs[c][i], ours[c][j] if c in ours else None) for c in names)
        }

    def _create_table(self, spec: TableSpec, rows: pa.Table, facts: Mapping[str, Any]) -> None:
        """Make a table from its first rows. It counts as there once the manifest names it."""
        import lance
        import lancedb

        rows = rows.take(pa.array(np.argsort(rows[spec.key].to_numpy(), kind="stable")))

        told = rows.schema.with_metadata({_FACTS: json.dumps(dict(facts)).encode()})
        # LanceDB makes the table; Lance writes the rows, because LanceDB refuses NaN in vectors,
        # which means "missing" in interpretable features.
        target = self.path / f"{spec.name}.lance"
        mode = "overwrite" if target.exists() else "create"
        lancedb.connect(str(self.path)).create_table(spec.name, schema=told, mode=mode)
        lance.write_dataset(rows, str(target), mode="append")

    def _with_missing_columns(self, spec: TableSpec, rows: pa.Table) -> pa.Table:
        """Add columns that `rows` brings and the table lacks; cast the others to its types."""
        dataset = self.dataset(spec)
        fresh = [f for f in rows.schema if f.name not in dataset.schema.names]
        if fresh:
            dataset.add_columns(pa.schema([f.with_nullable(True) for f in fresh]))
        return cast_like(rows, self.dataset(spec).schema)

    def set_columns(self, spec: TableSpec, key: str, values: pa.Table) -> None:
        """Set metadata columns on rows matched by the unique `key` column of `values`.

        `key` is the table's key; columns that do not exist yet are added.
        """
        with self.writing():
            in_sync = self._in_sync(spec)
            dataset = self.dataset(spec)
            names = set(dataset.schema.names)
            fresh = [c for c in values.schema.names if c not in names]
            held = [c for c in values.schema.names if c in names]
            if len(held) > 1:
                update = cast_like(values.select(held), dataset.schema)
                dataset.merge_insert(key).when_matched_update_all().execute(update)
            if fresh:
                self.dataset(spec).merge(values.select([key, *fresh]), key)
            # Who a row belongs to decides what may predict it: what is derived must be made anew.
            owners = {schema.PATIENT, schema.COHORT, schema.SITE} & set(values.schema.names)
            self._record_version(spec, vectors_changed=not in_sync or bool(owners))

    def set_vectors(
        self,
        spec: TableSpec,
        column: str,
        vectors: Matrix,
        *,
        told: Mapping[str, str] | None = None,
    ) -> None:
        """Store `vectors` (n, d), rows in key order, as a vector column of a table.

        `told` becomes the metadata of a new column.
        """
        with self.writing():
            in_sync = self._in_sync(spec)
            dataset = self.dataset(spec)
            keys = self.read(spec, [spec.key], dataset=dataset)
            field = pa.field(column, pa.list_(pa.float32(), vectors.shape[1]), metadata=told)
            values = keys.append_column(field, matrix_to_list(vectors))
            if column in dataset.schema.names:
                dataset.merge_insert(spec.key).when_matched_update_all().execute(values)
            else:
                dataset.merge(values, spec.key)
            self._record_version(spec, vectors_changed=not in_sync)

    def drop_shared(self, keep: str) -> None:
        """Drop the shared-vector columns of superseded spaces."""
        with self.writing():
            for spec in schema.TABLES.values():
                if not self.has(spec):
                    continue
                dataset = self.dataset(spec)
                stale = [
                    c
                    for c in dataset.schema.names
                    if c.startswith(schema.SHARED_PREFIX) and c != keep
                ]
                if stale:
                    in_sync = self._in_sync(spec)
                    dataset.drop_columns(stale)
                    self._record_version(spec, vectors_changed=not in_sync)

    def _in_sync(self, spec: TableSpec) -> bool:
        entry = self.manifest()["tables"].get(spec.name, {})
        return bool(entry.get("version") == self.version(spec))

    def _record_version(self, spec: TableSpec, *, vectors_changed: bool) -> None:
        version = int(self._open_table(spec).version)

        def change(manifest: dict[str, Any]) -> None:
            entry = manifest["tables"].setdefault(spec.name, {"vectors_version": version})
            entry["version"] = version
            if vectors_changed:
                entry["vectors_version"] = version

        self.update_manifest(change)


def content_hash(vector: bytes, metadata: bytes) -> str:
    """The hash of a row's content: 32 hexadecimal digits of its vector, 32 of its metadata."""
    return "".join(hashlib.blake2b(part, digest_size=16).hexdigest() for part in (vector, metadata))


def _same_vector(one: str, other: str) -> bool:
    return one[:32] == other[:32]


def _equal(one: Any, other: Any) -> bool:
    """Whether two metadata values are the same; a NaN and a null are both missing."""
    missing = [v is None or v != v for v in (one, other)]
    return all(missing) or bool(one == other)


def list_to_matrix(column: pa.ChunkedArray) -> Matrix:
    """A fixed-size-list column as an (n, d) float32 array; missing rows are all NaN."""
    dim = column.type.list_size
    out = np.full((len(column), dim), np.nan, dtype=np.float32)
    start = 0
    for chunk in column.chunks:
        # Not flatten() and is_valid(), which import pyarrow.compute: a tenth of a search.
        flat = chunk.values.to_numpy(zero_copy_only=False)
        rows = flat[chunk.offset * dim : (chunk.offset + len(chunk)) * dim].reshape(-1, dim)
        out[start : start + len(chunk)] = rows
        if chunk.null_count:
            out[start : start + len(chunk)][np.asarray(chunk.is_null())] = np.nan
        start += len(chunk)
    return out


def matrix_to_list(matrix: Matrix) -> pa.FixedSizeListArray:
    """An (n, d) array as a fixed-size-list<float32> column; rows with a NaN first value are null.

    Only whole-row NaN is stored as null, so interpretable features keep their single NaN values.
    """
    flat = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    missing = np.isnan(matrix).all(axis=1)
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1], mask=mask)


def cast_like(rows: pa.Table, target: pa.Schema) -> pa.Table:
    """`rows` with every column cast to the type it has in `target`.

    Raises:
        ColumnError: a column cannot be cast without loss.
    """
    for position, name in enumerate(rows.schema.names):
        wanted = target.field(name).type
        if rows.schema.field(name).type == wanted:
            continue
        try:
            rows = rows.set_column(position, name, rows[name].cast(wanted))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ColumnError(
                f"column {name} does not fit the column of that name in the database",
                found=f"{rows.schema.field(name).type} in the file, {wanted} in the database",
                hint="rename the column in the file, or make its type agree",
            ) from error
    return rows


def facts_of(table_schema: pa.Schema) -> dict[str, Any]:
    """The facts that a table carries in its schema metadata (see `Database.facts`)."""
    return dict(json.loads((table_schema.metadata or {}).get(_FACTS, b"{}")))


def _nearest_database(path: Path) -> str | None:
    parent = path.parent
    if not parent.is_dir():
        return None
    try:
        found = [p.name for p in parent.iterdir() if (p / schema.MANIFEST).is_file()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, found, n=1, cutoff=0.4)
    return str(parent / (near or found)[0]) if near or len(found) == 1 else None
