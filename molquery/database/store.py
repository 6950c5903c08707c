"""`Database`: create, open, read, upsert, join metadata, filter, delete, versions.

A reader sees the state that the manifest names and never a newer one; a writer holds the lock,
changes the tables, and replaces the manifest at the end (`Database.writing`). So several changes
take effect together, and what a killed writer leaves behind is no part of the database.

Facts about a table that must never be parted from its rows (encoder, dimension, gene panel, scale)
are kept in the table's own schema metadata. `vectors_version` of a table is the database version at
which its rows, vectors, or anything else that derived files depend on last changed, so that a join
of other metadata does not make them stale.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from molquery import __version__, schema
from molquery.database import leftovers, lock, manifest, tables
from molquery.database.appender import Appender
from molquery.database.arrays import cast_like, facts_of, list_to_matrix
from molquery.database.columns import add_column
from molquery.database.content import same_metadata, same_vector
from molquery.database.manifest import Manifest
from molquery.database.mapped import SUMS, Checked, arrow_columns, block_sums
from molquery.errors import ConflictError, DatabaseError, FilterError, OutputError, printable
from molquery.files import is_uri, put_in_place, sha256_file, temporary_file, write_bytes
from molquery.filters import check_filter
from molquery.schema import TableSpec
from molquery.texts import coded
from molquery.threads import streamed
from molquery.vectors import Ints, Matrix

if TYPE_CHECKING:
    from molquery.database.remote import Remote

#: Rows of a table that are read at a time: with vectors of 512 values 16 MB.
BATCH = 8_192
#: Derived files above this size have sums of their blocks; smaller ones are checked as a whole.
_SMALL = 1 << 20
_SIDECARS = "sidecars"
_drafts = threading.local()


@dataclass(frozen=True, slots=True)
class UpsertCounts:
    """How many rows an upsert inserted, updated, and left alone because nothing differed."""

    inserted: int
    updated: int
    unchanged: int


class Database:
    """An archive on disk. Reads see the newest version; those of a pinned one see its own."""

    def __init__(self, path: Path, remote: Remote | None = None) -> None:
        self.path = path
        #: Where the files are, if `path` is a copy of them that is filled as it is read.
        self.remote = remote
        self._pinned: Manifest | None = None
        self._checks = tables.Checks(remote)
        self._orders: dict[tuple[str, int], Ints | None] = {}
        self._whole: dict[Path, tuple[tuple[int, int, int], Checked]] = {}

    @property
    def name(self) -> str:
        """What users call it: its path, or its URI."""
        return self.remote.uri if self.remote else str(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the same version of it; what was checked here is checked there."""
        return _at, (self.name, self._pinned)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Database:
        """A new, empty database in a directory that does not exist yet or is empty, or at a URI.

        Raises:
            DatabaseError: something is there already, or the directory cannot be made.
        """
        about = {"command": "init", "time": _now(), "molquery": __version__}
        first = manifest.empty() | about
        if is_uri(path):
            remote = _remote(path)
            remote.need_empty()
            remote.create(first)
            return cls.open(path)
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
        manifest.write_record(root, first)
        manifest.write(root, first)
        return cls(root)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Database:
        """The database at a path or a URI; never creates anything.

        Raises:
            DatabaseError: there is none, its format version is not known to this molquery, or its
                object store cannot be read.
        """
        if is_uri(path):
            remote = _remote(path)
            remote.pull()
            return cls(remote.root, remote)
        root = Path(path)
        if not (root / schema.MANIFEST).is_file():
            near = _nearest_database(root)
            if root.is_dir():
                what = f"{root} is not a molquery database (it has no {schema.MANIFEST})"
            else:
                what = f"there is no database at {root}"
            hint = f"--db {near}" if near else f"molquery --db {root} init, to make a new one"
            raise DatabaseError(what, hint=hint)
        manifest.read(root)
        return cls(root)

    @classmethod
    def recover(cls, path: Path) -> int:
        """Make a manifest anew that is damaged, from the newest version kept; returns its number.

        What is derived is not named in it, and has to be built again.

        Raises:
            DatabaseError: that version cannot be read either, or another process is writing.
        """
        with lock.hold(path, "doctor --repair"):
            newest = manifest.newest_record(path)
            if newest is None:
                raise DatabaseError(
                    f"the manifest of {path} cannot be made anew",
                    found="what is kept of its newest version is damaged as well",
                    hint="restore the directory from a snapshot or another backup",
                )
            manifest.write(path, manifest.empty() | newest)
            return int(newest["version"])

    # The manifest ------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """The manifest: of the pinned version, of the change being made, or as it is on disk now.

        Raises:
            DatabaseError: it is damaged.
        """
        if self._pinned is None:
            draft = self._draft
            return draft if draft is not None else self._live()
        # What is derived may come later than the version that it belongs to.
        live = self._live()
        return live if manifest.truth(live) == manifest.truth(self._pinned) else self._pinned

    def pinned(self) -> Database:
        """This database as it is now, whatever is written to it from now on."""
        view = Database(self.path, self.remote)
        view._pinned = copy.deepcopy(self.manifest())
        view._checks, view._whole = self._checks, self._whole
        return view

    def is_current(self) -> bool:
        """True while the database is at the version that this view of it is pinned to."""
        live = self.remote.pull() if self.remote else self._live()
        return bool(live["version"] == self.manifest()["version"])

    def _live(self) -> Manifest:
        """The manifest on disk; of a remote database, as it was when it was last asked for."""
        return self.remote.state if self.remote else manifest.read(self.path)

    @contextmanager
    def writing(self, command: str) -> Iterator[Manifest]:
        """Hold the write lock; what the block changes takes effect at its end, all at once.

        Yields the manifest as it will be. Blocks within a block belong to the outermost one. After
        an error nothing has changed. `command` is what `molquery history` shows.

        Raises:
            DatabaseError: another process has been writing for a minute, or the directory cannot
                be written.
        """
        if (outer := self._draft) is not None:
            yield outer
            return
        with lock.hold(self.path, command) as unfinished:
            before = self._latest()
            if unfinished:
                leftovers.remove(self.path, leftovers.leftovers(self.path, before))
            leftovers.remove(self.path, leftovers.unfinished_files(self.path))
            held = leftovers.table_files(self.path)
            draft = copy.deepcopy(before) | {"details": ""}
            try:
                _drafts.__dict__[self._key] = draft
                try:
                    yield draft
                finally:
                    del _drafts.__dict__[self._key]
                self._commit(before, draft, command)
            except BaseException as error:
                refused = tables.is_refused(error)
                if isinstance(error, Exception) or refused:
                    with suppress(Exception):
                        self._undo(before)
                if refused:
                    raise tables.failed(self.path, error) from error
                raise
            leftovers.remove(self.path, leftovers.of_change(self.path, held, draft))

    def kept_versions(self) -> list[int]:
        """The numbers of the versions that are kept, in order, damaged ones included."""
        if self.remote:
            self.remote.pull_records()
        return manifest.kept_versions(self.path)

    def _latest(self) -> Manifest:
        """What a change begins with."""
        if self.remote is None:
            return manifest.read(self.path)
        found = self.remote.pull()
        self.remote.pull_records()
        return found

    def update_manifest(self, change: Callable[[Manifest], None], command: str = "update") -> None:
        """Apply `change` to the manifest, as `writing` does."""
        with self.writing(command) as draft:
            change(draft)

    @property
    def _key(self) -> str:
        return str(self.path.absolute())

    @property
    def _draft(self) -> Manifest | None:
        return _drafts.__dict__.get(self._key)

    def _commit(self, before: Manifest, draft: Manifest, command: str) -> None:
        if manifest.truth(draft) == manifest.truth(before):
            draft |= {"details": before["details"]}
        else:
            draft |= {
                "version": before["version"] + 1, "time": _now(), "command": command,
                "molquery": __version__,
            }  # fmt: skip
        if self.remote and draft != before:
            self.remote.push(before, draft)
        if draft["version"] != before["version"]:
            manifest.write_record(self.path, draft)
        if draft != before:
            manifest.write(self.path, draft)
            leftovers.remove(self.path, leftovers.derived(self.path, draft))

    def _undo(self, before: Manifest) -> None:
        """Remove what a change has written that failed before it took effect."""
        if manifest.read(self.path) == before:
            leftovers.remove(self.path, leftovers.leftovers(self.path, before))
        lock.finish(self.path)

    def keep_record(self) -> None:
        """Write anew what is kept of the current version."""
        with self.writing("doctor --repair") as draft:
            manifest.write_record(self.path, draft)
            if self.remote:
                self.remote.put_record(draft)

    def sweep(self) -> list[str]:
        """Remove what killed commands, and versions that are not kept, have left; returns names."""
        with self.writing("sweep") as draft:
            removed = leftovers.remove(self.path, leftovers.leftovers(self.path, draft))
            return self.remote.sweep() if self.remote else removed

    # Reading -----------------------------------------------------------------------------------

    def has(self, spec: TableSpec) -> bool:
        """True when the table holds rows."""
        return spec.name in self.manifest()["tables"]

    def _entry(self, spec: TableSpec) -> tables.Entry:
        entry = self.manifest()["tables"].get(spec.name)
        if entry is None:
            raise DatabaseError(
                f"{self.name} holds no {spec.name} yet",
                hint=f"molquery ingest {spec.name} FILE --id COLUMN",
            )
        return dict(entry)

    def dataset(self, spec: TableSpec) -> Any:
        """The Lance dataset of a table.

        Its columns and row count can be relied on; to read values, use `read`, which checks them.

        Raises:
            DatabaseError: the table is empty, or its files are damaged.
        """
        return self._open(spec)[0]

    def _open(self, spec: TableSpec) -> tuple[Any, tables.Entry]:
        entry = self._entry(spec)
        with self._reading(spec):
            return tables.open_table(self.path, spec, entry, self._checks), entry

    @contextmanager
    def _reading(self, spec: TableSpec, where: str | None = None) -> Iterator[None]:
        """Say what is wrong where a table cannot be read: its version, its files, or the filter."""
        try:
            yield
        except DatabaseError:
            self._still_there()
            raise
        except tables.ERRORS as error:
            tables.interrupted(error)
            self._still_there()
            if where is None:
                raise tables.unreadable(self.path, spec, error) from error
            raise self._bad_filter(spec, where, str(error)) from error

    def _still_there(self) -> None:
        """Raise another error where a file is missing because its version is not kept any more."""
        pinned = self._pinned
        if pinned and self.remote:
            self.remote.pull()
        if pinned and pinned["version"] not in self.kept_versions():
            raise ConflictError(
                f"version {pinned['version']} of {self.name} was removed while it was being read",
                hint="run the same command again",
            )

    def version(self, spec: TableSpec) -> int:
        """The version of the table in Lance."""
        return int(self._entry(spec)["version"])

    def vectors_version(self, spec: TableSpec) -> int:
        """The database version at which what derived files depend on last changed."""
        return int(self._entry(spec)["vectors_version"])

    def grown_from(self, spec: TableSpec) -> list[int]:
        """The `vectors_version`s since which rows were added, and nothing else has changed."""
        return [int(version) for version in self._entry(spec).get("grown_from", [])]

    def facts(self, spec: TableSpec) -> dict[str, Any]:
        """What holds for every row: encoder, kind, dim of slides; genes, scale of profiles."""
        return facts_of(self.dataset(spec).schema)

    def metadata_columns(self, spec: TableSpec) -> list[str]:
        """The names of the columns that a filter may use."""
        return [c for c in self.dataset(spec).schema.names if not schema.is_internal(c)]

    def count(self, spec: TableSpec, where: str | None = None) -> int:
        """The number of rows, or of those that satisfy a filter."""
        if where is None:
            return int(self._entry(spec)["rows"])
        return len(self.read(spec, [spec.key], where=where))

    def read(
        self, spec: TableSpec, columns: Sequence[str], *, where: str | None = None
    ) -> pa.Table:
        """Columns of the rows that satisfy a SQL filter, ordered by the table's key.

        The files that hold the columns are checked first.

        Raises:
            FilterError: the filter is not valid SQL or names an unknown column.
            DatabaseError: the table is empty, or its files are damaged.
        """
        dataset, entry = self._open(spec)
        names = list(dict.fromkeys([spec.key, *columns]))
        used = {*names}
        if where is not None:
            check_filter(where)
            every = dataset.schema.names
            used.update(c for c in every if c in where or not schema.is_internal(c))
        with self._reading(spec, where):
            tables.check_columns(self.path, spec, dataset, entry, self._checks, used)
            table = dataset.scanner(columns=names, filter=where).to_table()
        keys = table[spec.key].to_numpy()
        order = np.argsort(keys, kind="stable")
        if (order[1:] < order[:-1]).any():  # rows are mostly stored in key order: then no copy
            table = table.take(pa.array(order))
        return table.select(list(dict.fromkeys(columns)))

    def batches(
        self,
        spec: TableSpec,
        columns: Sequence[str],
        *,
        rows: Ints | None = None,
        size: int = BATCH,
    ) -> Iterator[tuple[Ints, pa.Table]]:
        """As `read`, some rows at a time: their positions in the order of the key, and the columns.

        Args:
            rows: ascending positions of the rows that are wanted; all of them when left out.

        Raises:
            DatabaseError: the table is empty, or its files are damaged.
        """
        dataset, entry = self._open(spec)
        names = list(dict.fromkeys(columns))
        with self._reading(spec):
            tables.check_columns(self.path, spec, dataset, entry, self._checks, [spec.key, *names])
            order = self._order(spec)
            if rows is None and order is None:
                yield from tables.scan(dataset, names, size)
                return
            wanted = np.arange(int(entry["rows"])) if rows is None else rows
            for start in range(0, len(wanted), size):
                some = wanted[start : start + size]
                places = some if order is None else order[some]
                yield some, tables.take(dataset, names, places)

    def take(self, spec: TableSpec, columns: Sequence[str], rows: Ints) -> pa.Table:
        """As `read`, the rows at some ascending positions in the order of the key."""
        found = [table for _, table in self.batches(spec, columns, rows=rows, size=len(rows) or 1)]
        return found[0] if found else self.dataset(spec).schema.empty_table().select(list(columns))

    def _order(self, spec: TableSpec) -> Ints | None:
        """Where the rows lie in the order of the key; None where they are stored in that order."""
        at = spec.name, self.version(spec)
        if at not in self._orders:
            table = self.dataset(spec).scanner(columns=[spec.key]).to_table()
            order = np.argsort(table[spec.key].to_numpy(), kind="stable")
            self._orders[at] = order if (order[1:] < order[:-1]).any() else None
        return self._orders[at]

    def matrix(self, spec: TableSpec, column: str) -> Matrix:
        """A vector column as an (n, d) float32 array, rows ordered by the table's key.

        Rows whose vector is missing are all NaN.
        """
        return list_to_matrix(self.read(spec, [column])[column])

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

    # What is derived ---------------------------------------------------------------------------

    def derived(self, section: str, key: str) -> tuple[dict[str, Any], Path] | None:
        """The manifest entry and the file of something derived; None where it is not whole.

        Whether it belongs to the database as it is now is for the caller to compare.
        """
        found = self.mapped(section, key)
        if found is None:
            return None
        entry, file = found
        try:
            file.check()
        except DatabaseError:
            return None
        return entry, self.path / entry["file"]

    def mapped(self, section: str, key: str) -> tuple[dict[str, Any], Checked] | None:
        """As `derived`, the file mapped into memory: its blocks are to be checked as they are read.

        A small file has been checked as a whole. None where it, or its file of sums, is not whole.
        """
        entry = self.manifest()[section].get(key)
        if entry is None:
            return None
        try:
            file = self._mapped(entry)
            if self.remote:  # what is damaged in the copy is fetched anew
                file.check()
            return entry, file
        except (OSError, DatabaseError):
            if self.remote is None:
                return None
        files = {entry["file"]: entry["sha256"]}
        if "sums" in entry:
            files[f"{entry['file']}{SUMS}"] = entry["sums"]
        if self.remote.fetch(files, anew=True):
            return None
        return entry, self._mapped(entry)

    def _mapped(self, entry: Mapping[str, Any]) -> Checked:
        path = self.path / entry["file"]
        if "sums" not in entry:
            if sha256_file(path) != entry["sha256"]:
                raise tables.damaged(path, "its sha256 is not the one it was written with")
            return Checked(path, None)
        known = self._whole.get(path)
        told = path.stat()
        state = (told.st_mtime_ns, told.st_size, told.st_ino)
        if known is None or known[0] != state:
            sums = Path(f"{path}{SUMS}").read_bytes()
            if hashlib.sha256(sums).hexdigest() != entry["sums"]:
                raise tables.damaged(path, "its file of sums is not what was written")
            known = self._whole[path] = state, Checked(path, sums)
        return known[1]

    def is_whole(self, name: str, digest: str) -> bool:
        """Whether a file of the database is what was written; of a remote one, it is fetched."""
        path = self.path / name
        with suppress(OSError):
            if sha256_file(path) == digest:
                return True
        return self.remote is not None and not self.remote.fetch({name: digest}, anew=True)

    def need(self, files: Mapping[str, str]) -> None:
        """Check files of the database against their sha256, once by each process; remote ones are
        fetched.

        Raises:
            DatabaseError: one is missing, or is not what was written.
        """
        self._checks.check(self.path, files)

    def digest(self, name: str) -> str:
        """The sha256 of a file of the database as it is where it is kept.

        Raises:
            OSError: it is missing, or cannot be read.
        """
        return self.remote.digest(name) if self.remote else sha256_file(self.path / name)

    def holds(self, name: str) -> bool:
        """Whether there is a file of the database, whatever is in it."""
        there = (self.path / name).is_file()
        return there or (self.remote is not None and self.remote.objects.exists(name))

    def store_derived(
        self,
        section: str,
        key: str,
        entry: Mapping[str, Any],
        name: str,
        write: Callable[[Path], object],
    ) -> dict[str, Any]:
        """Write a derived file, called by its name and sha256, and name it in the manifest.

        Returns the entry with its `file` and `sha256`.

        Raises:
            ConflictError: a pinned database has changed since, so that the file would be stale.
            OutputError: the file cannot be written.
        """
        folder = self.path / schema.INDEXES
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}", found=error.strerror) from error
        stem, suffix = os.path.splitext(name)
        with temporary_file(folder / name) as temporary:
            write(temporary)
            digest = sha256_file(temporary)
            file = f"{schema.INDEXES}/{stem}-{digest[:12]}{suffix}"
            whole = {**entry, "file": file, "sha256": digest}
            sums = b""
            if temporary.stat().st_size > _SMALL:
                sums = block_sums(temporary).tobytes()
                whole["sums"] = hashlib.sha256(sums).hexdigest()
            with self.writing(f"store {name}") as draft:
                if self._pinned and draft["version"] != self._pinned["version"]:
                    raise ConflictError(
                        f"{self.name} has changed while {name} was made",
                        hint="run the same command again",
                    )
                if sums:
                    write_bytes(self.path / f"{file}{SUMS}", sums)
                put_in_place(temporary, self.path / file)
                draft[section][key] = whole
        return whole

    def read_sidecar(self, spec: TableSpec, columns: Sequence[str]) -> pa.Table:
        """As `read`, from the sidecar file of the table when it is current, whole and has them.

        The result is memory-mapped and carries the table's facts as schema metadata; of the other
        columns nothing is read. Text of few distinct values comes as a dictionary.
        """
        found = self.mapped(_SIDECARS, spec.name)
        if found is not None:
            entry, file = found
            current = entry["vectors_version"] == self.vectors_version(spec)
            if current and set(columns) <= set(entry["columns"]):
                with suppress(DatabaseError):  # damaged: as if it were not there
                    return arrow_columns(file, columns)
        return self._with_facts(spec, columns)

    def _with_facts(self, spec: TableSpec, columns: Sequence[str]) -> pa.Table:
        metadata = self.dataset(spec).schema.metadata
        return self.read(spec, columns).replace_schema_metadata(metadata)

    def write_sidecar(self, spec: TableSpec, columns: Sequence[str]) -> None:
        """Keep columns of a table in an Arrow file that opens without Lance.

        Raises:
            DatabaseError, OutputError: as `store_derived`.
        """
        view = self.pinned()
        table = view._with_facts(spec, columns)

        def write(path: Path) -> None:
            held = coded(table, spec.key)
            with pa.ipc.new_file(path, held.schema) as file:
                file.write_table(held)

        entry = {"columns": table.schema.names, "vectors_version": view.vectors_version(spec)}
        view.store_derived(_SIDECARS, spec.name, entry, f"{spec.name}.arrow", write)

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
        with self.writing(f"ingest {spec.name}"):
            if not self.has(spec):
                tables.create(self.path, spec, rows, facts)
                self._record(spec, f"{len(rows)} {spec.name} inserted")
                return UpsertCounts(len(rows), 0, 0)
            held = self.read(spec, [spec.key, schema.CONTENT_HASH]).to_pydict()
            old = dict(zip(held[spec.key], held[schema.CONTENT_HASH], strict=True))
            new = [k not in old for k in hashes]
            differ = {k for k, h in hashes.items() if k in old and old[k] != h}
            if alike := {k for k in differ if same_vector(old[k], hashes[k])}:
                names = [c for c in rows.schema.names if c in self.metadata_columns(spec)]
                differ -= same_metadata(spec, self.read(spec, names), rows, alike)
            changed = [k in differ for k in hashes]
            mask = np.array(new) | np.array(changed)
            if mask.any():
                columns = self._with_missing_columns(spec, rows.filter(pa.array(mask)))
                # Lance's own merge: LanceDB's refuses NaN, which means "missing" in features.
                merge = self._head(spec).merge_insert(spec.key).when_matched_update_all()
                merge.when_not_matched_insert_all().execute(columns)
                counts = f"{sum(new)} {spec.name} inserted, {sum(changed)} updated"
                self._record(spec, counts, only_added=not any(changed))
            return UpsertCounts(sum(new), sum(changed), len(hashes) - int(mask.sum()))

    @contextmanager
    def appending(
        self, spec: TableSpec, rows: pa.Schema, facts: Mapping[str, Any]
    ) -> Iterator[Appender]:
        """Where to put rows of new keys, a batch at a time; they are there at the end of the block.

        To be called in a `writing` block. The table is made, or given the columns that are new.
        """
        if not self.has(spec):
            tables.create(self.path, spec, rows.empty_table(), facts)
            self._record(spec)
        self._with_missing_columns(spec, rows.empty_table())
        appender = Appender(self._head(spec), tables.folder_of(self.path, spec))
        try:
            yield appender
            appender.commit()
        finally:
            appender.close()
        told = f"{appender.rows} {spec.name} inserted" if appender.rows else ""
        self._record(spec, told, only_added=True, known=appender.digests)

    def _with_missing_columns(self, spec: TableSpec, rows: pa.Table) -> pa.Table:
        """Add columns that `rows` brings and the table lacks; cast the others to its types."""
        held = self.dataset(spec).schema
        known = [c for c in rows.schema.names if c in held.names]
        cast_like(rows.select(known), held)  # refuse them before the table is changed
        fresh = [f for f in rows.schema if f.name not in held.names]
        if fresh:
            self._head(spec).add_columns(pa.schema([f.with_nullable(True) for f in fresh]))
            self._record(spec, vectors_changed=False)
        return cast_like(rows, self.dataset(spec).schema)

    def set_columns(self, spec: TableSpec, key: str, values: pa.Table) -> None:
        """Set metadata columns on rows matched by the unique `key` column of `values`.

        `key` is the table's key; columns that do not exist yet are added.
        """
        with self.writing("ingest metadata") as draft:
            dataset = self._head(spec)
            names = set(dataset.schema.names)
            fresh = [c for c in values.schema.names if c not in names]
            held = [c for c in values.schema.names if c in names]
            # Who a row belongs to decides what may predict it: what is derived must be made anew.
            decisive = {schema.PATIENT, schema.COHORT, schema.SITE}
            decisive.update(c for entry in draft["spaces"].values() for c in entry["reads"])
            rows_only = decisive.isdisjoint(values.schema.names)
            if len(held) > 1:
                update = cast_like(values.select(held), dataset.schema)
                dataset.merge_insert(key).when_matched_update_all().execute(update)
                self._record(spec, vectors_changed=not rows_only)
            if fresh:
                self._head(spec).merge(values.select([key, *fresh]), key)
                self._record(spec, vectors_changed=not rows_only)
            self._tell(f"{len(values.schema.names) - 1} columns of {len(values)} {spec.name}")

    def set_vectors(
        self,
        spec: TableSpec,
        column: str,
        dim: int,
        reads: Sequence[str],
        vectors: Callable[[pa.Table], Matrix],
        *,
        told: Mapping[str, str] | None = None,
    ) -> None:
        """Make a vector column anew, of all rows; they are read and written some at a time.

        `vectors` gives the vectors (n, dim) float32 of n rows with the columns `reads`, in their
        order; it is called on several threads. A column of that name is replaced, and cannot be
        among `reads`. `told` becomes the metadata of the column.
        """
        with self.writing("set vectors"):
            if column in self.dataset(spec).schema.names:
                self._drop(spec, [column])
            field = pa.field(column, pa.list_(pa.float32(), dim), metadata=told)
            add_column(self._head(spec), field, streamed(vectors, self._stored(spec, reads)))
            self._record(spec, vectors_changed=False)

    def _stored(self, spec: TableSpec, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of every row in the order of storage, some rows at a time."""
        dataset, entry = self._open(spec)
        with self._reading(spec):
            tables.check_columns(self.path, spec, dataset, entry, self._checks, columns)
            for _, rows in tables.scan(dataset, columns, BATCH):
                yield rows

    def drop_shared(self, keep: str) -> None:
        """Drop the shared-vector columns of superseded spaces, without reading them."""
        with self.writing("drop vectors"):
            for spec in schema.TABLES.values():
                if not self.has(spec):
                    continue
                names = self.dataset(spec).schema.names
                stale = [c for c in names if c.startswith(schema.SHARED_PREFIX) and c != keep]
                if stale:
                    self._drop(spec, stale)

    def _drop(self, spec: TableSpec, columns: Sequence[str]) -> None:
        """Drop columns of shared vectors and the like, without reading them."""
        self._head(spec, unread=columns).drop_columns(list(columns))
        self._record(spec, vectors_changed=False)

    def drop_space(self) -> None:
        """Remove the spaces, and everything that was made with them."""
        with self.writing("drop space") as draft:
            draft["spaces"].clear()
            self.drop_shared(keep="")
            for section in manifest.DERIVED:
                draft[section].clear()

    def delete_rows(self, spec: TableSpec, where: str) -> int:
        """Delete the rows that satisfy a filter, and what is derived from them; returns how many.

        A table that has lost its last row counts as not there, and without one of the two tables
        there are no pairs, so the spaces go as well.
        """
        with self.writing(f"delete {spec.name}") as draft:
            doomed = self.count(spec, where)
            if not doomed:
                return 0
            if doomed == self.count(spec):
                del draft["tables"][spec.name]
                self.drop_space()
            else:
                self._head(spec).delete(where)
                self._record(spec)
            # Not only stale: they hold what was deleted.
            draft["predictions"].clear()
            draft["sidecars"].pop(spec.name, None)
            for key in [k for k, e in draft["indexes"].items() if e["table"] == spec.name]:
                del draft["indexes"][key]
            self._tell(f"{doomed} {spec.name} deleted")
            return doomed

    def compact_tables(self, *, forget: bool = False) -> None:
        """Write the tables anew without deleted rows, where they hold any, and in fewer files.

        Lance notes in a version what made it, such as the filter of a deletion; with `forget` the
        version that is left says nothing.
        """
        with self.writing("compact"):
            for spec in schema.TABLES.values():
                if self.has(spec):
                    tables.compact(self._head(spec))
                    self._record(spec, vectors_changed=False)
                    if forget:
                        tables.roll_back(self.path, spec, self.dataset(spec))
                        self._record(spec, vectors_changed=False)

    def take_version(self, wanted: Manifest) -> None:
        """Make the tables, spaces and gene sets what they were in an earlier version.

        Raises:
            DatabaseError: a file of that version is damaged or missing; nothing has changed.
        """
        with self.writing("restore") as draft:
            self.need(manifest.truth_files(wanted))
            draft["spaces"] = copy.deepcopy(wanted["spaces"])
            draft["collections"] = copy.deepcopy(wanted["collections"])
            now, draft["tables"] = draft["tables"], copy.deepcopy(wanted["tables"])
            for spec in schema.TABLES.values():
                if self.has(spec) and now.get(spec.name) != wanted["tables"][spec.name]:
                    self._head(spec)

    def only_shared(self, spec: TableSpec) -> set[str]:
        """The data files of a table that hold shared vectors and nothing else."""
        dataset = self.dataset(spec)
        other = [c for c in dataset.schema.names if not c.startswith(schema.SHARED_PREFIX)]
        return tables.files_of(dataset, None) - tables.files_of(dataset, other)

    def _head(self, spec: TableSpec, unread: Sequence[str] = ()) -> Any:
        """The dataset to write to: Lance's newest version, made the one that the manifest names.

        A killed writer, and other programs, can leave newer ones. Every file is checked, because a
        write copies rows: what is damaged must not get a checksum as if it were whole. Only files
        of `unread` columns alone, which are about to be dropped, need not be whole.
        """
        if self._pinned is not None:
            raise AssertionError("a pinned database is not written to")
        dataset, entry = self._open(spec)
        columns = [c for c in dataset.schema.names if c not in unread]
        tables.check_columns(self.path, spec, dataset, entry, self._checks, columns)
        if tables.newest(self.path, spec) != entry["version"]:
            tables.roll_back(self.path, spec, dataset, entry["version"])
            self._record(spec, vectors_changed=False)
            dataset = self.dataset(spec)
        return dataset

    def _record(
        self,
        spec: TableSpec,
        told: str = "",
        *,
        vectors_changed: bool = True,
        only_added: bool = False,
        known: Mapping[str, str] | None = None,
    ) -> None:
        """Take a table's newest version into the manifest that is being made.

        `only_added`: rows came, and none that was there before has changed. `known` are the
        checksums of new files that are on disk already.
        """
        draft = self._draft
        assert draft is not None
        old = draft["tables"].get(spec.name, {})
        entry = tables.entry_of(self.path, spec, {**old.get("files", {}), **(known or {})})
        # Not Lance's number: one that was damaged and set aside may come again.
        now = draft["version"] + 1
        before = old.get("vectors_version", now)
        entry["vectors_version"] = now if vectors_changed else before
        grown = list(old.get("grown_from", []))
        if vectors_changed:
            grown = [*grown, *([before] if before < now else [])] if only_added else []
        entry["grown_from"] = grown
        draft["tables"][spec.name] = entry
        self._tell(told)

    def _tell(self, text: str) -> None:
        draft = self._draft
        assert draft is not None
        draft["details"] = "; ".join(filter(None, [draft["details"], text]))


def _remote(uri: object) -> Remote:
    from molquery.database.remote import Remote

    return Remote(str(uri))


def _at(name: str, pinned: Manifest | None) -> Database:
    database = Database.open(name)
    database._pinned = pinned
    return database


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
