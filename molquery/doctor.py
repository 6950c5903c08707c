"""What is wrong with an installation or a database, how grave it is, and what to do.

A check looks at one thing and says what it found. Nothing is changed unless `repair` is called,
which makes anew what is derived and never touches what is truth.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molquery import environment, genes, index, schema
from molquery.database import Database, leftovers, list_to_matrix, lock, manifest
from molquery.errors import DatabaseError, MolqueryError, some
from molquery.files import is_uri
from molquery.progress import Progress, silent
from molquery.query import prepared
from molquery.query.engine import Engine
from molquery.query.indexes import build_indexes
from molquery.recipes import load_recipe
from molquery.schema import PROFILES, SLIDES, TableSpec
from molquery.space import DEFAULT_SPACE, need_space, project_tables, space_facts
from molquery.vectors import Bools

State = Mapping[str, Any]

_LITTLE_DISK = 1 << 30  # bytes; an alignment or a compaction writes a table once more


_MANY_PIECES = 100  # files of a table; each ingest adds one, and opening them takes time


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        severity: `ok`; `note`, worth knowing; `warning`, to be mended although no answer is wrong;
            `error`, some commands refuse to work.
        mends: whether `repair` mends it.
    """

    check: str
    severity: str
    what: str
    remedy: str = ""
    mends: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found, and what was repaired before."""

    environment: dict[str, str]
    findings: tuple[Finding, ...]
    repaired: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """True when there is nothing that should be mended."""
        return not any(f.severity in ("warning", "error") for f in self.findings)


def examine(path: Path | str | None, *, progress: Progress | None = None) -> Diagnosis:
    """Examine the installation, and the database at a path if one is given.

    Every file of every version that is kept is read. Whatever is wrong with a database is a
    finding.

    Raises:
        DatabaseError: there is no database at the path.
    """
    findings = list(_installation())
    if path is not None and is_uri(path):
        findings += _remote(Database.open(path), progress or silent)
    elif path is not None:
        if not manifest.kept_versions(Path(path)):
            Database.open(path)  # says what is there instead
        findings += _database(Path(path), progress or silent)
    return Diagnosis(environment.environment(), tuple(findings))


def repair(path: Path | str, *, progress: Progress | None = None) -> Diagnosis:
    """Make anew what is derived and damaged, stale or missing; then examine again.

    What is derived: indexes, predictions, sidecars, shared vectors, and the manifest where the
    version that it named is kept whole. Tables, spaces and gene sets are never written.

    Raises:
        DatabaseError: there is no database at the path, or it cannot be written.
    """
    tell = progress or silent
    done: list[str] = []
    found = examine(path, progress=tell)
    if any(f.check == "manifest" and f.mends for f in found.findings):
        done.append(f"the manifest made anew from version {Database.recover(Path(path))}")
        found = examine(path, progress=tell)
    if mend := {f.check for f in found.findings if f.mends}:
        done += _mend(Database.open(path), mend, tell)
        found = examine(path, progress=tell)
    return Diagnosis(found.environment, found.findings, tuple(done))


def _mend(database: Database, mend: set[str], tell: Progress) -> Iterator[str]:
    if database.remote and (again := database.remote.mend()):
        yield f"{again} objects put again from the copy of this machine"
    if "versions" in mend:
        database.keep_record()
        yield "what is kept of the current version written anew"
    if mend & {"leftovers", "writer"}:
        yield f"{len(database.sweep())} files that nothing needs removed"
    steps: list[tuple[str, Callable[[], object]]] = []
    if "shared vectors" in mend:
        steps.append(("shared vectors", lambda: _project(database)))
    if mend & {"shared vectors", "predictions", "sidecars"}:
        steps.append(("predictions and sidecars", lambda: _predict(database)))
    if mend & {"shared vectors", "indexes"}:
        steps += [(f"index {name}", build) for name, build in _builds(database)]
    for done, (name, step) in enumerate(steps):
        tell(f"making {name}", done, len(steps))
        try:
            step()
            yield f"{name} made anew"
        except MolqueryError as error:
            yield f"{name} could not be made: {error.what}"


def _project(database: Database) -> None:
    space = need_space(database)
    with database.writing("doctor --repair"):
        database.drop_shared(keep="")
        project_tables(database, space)


def _predict(database: Database) -> None:
    def forget(state: dict[str, Any]) -> None:
        state["predictions"], state["sidecars"] = {}, {}

    database.update_manifest(forget)
    _ = Engine(database).prepared  # stores what it computes


def _builds(database: Database) -> Iterator[tuple[str, Callable[[], object]]]:
    for recipe in sorted({e["recipe"] for e in database.manifest()["indexes"].values()}):

        def build(recipe: str = recipe) -> None:
            build_indexes(Engine(database), load_recipe(recipe))

        yield recipe, build


def _ok(check: str, what: str) -> Finding:
    return Finding(check, "ok", what)


def _note(check: str, what: str, remedy: str = "") -> Finding:
    return Finding(check, "note", what, remedy)


def _warning(check: str, what: str, remedy: str, *, mends: bool = False) -> Finding:
    return Finding(check, "warning", what, remedy, mends)


def _error(check: str, what: str, remedy: str, *, mends: bool = False) -> Finding:
    return Finding(check, "error", what, remedy, mends)


_REPAIR = "molquery doctor --repair"


def _installation() -> Iterator[Finding]:
    held = environment.faiss()
    if len(held) == 1:
        yield _ok("FAISS", f"{held[0]} {environment.version(held[0])}, {environment.gpus()} GPUs")
    else:
        what = f"several at once: {', '.join(held)}" if held else "no distribution is installed"
        remedy = "pip uninstall every one of them, then install molquery[cpu], [gpu] or [cuvs]"
        yield _error("FAISS", what, remedy)
    missing = [name for name in environment.LIBRARIES if environment.version(name) is None]
    if missing:
        yield _error("libraries", f"not installed: {', '.join(missing)}", "pip install molquery")
    else:
        yield _ok("libraries", "all are installed")
    if environment.version("torch") is None:
        yield _note("torch", "not installed", "only molquery align needs it: pip install torch")


def _database(root: Path, tell: Progress) -> Iterator[Finding]:
    yield from _disk(root)
    yield from _writer(root)
    try:
        state = manifest.read(root)
    except DatabaseError as error:
        yield _unreadable(root, error)
        return
    yield from _content(Database(root), state, tell)
    yield from _leftovers(root, state)


def _remote(database: Database, tell: Progress) -> Iterator[Finding]:
    """As `_database`, of objects as they are in the store, whatever the copy of them holds."""
    remote = database.remote
    assert remote is not None
    database.kept_versions()
    yield from _disk(database.path)
    yield from _content(database, database.manifest(), tell)
    if left := remote.unneeded():
        what = f"{len(left)} objects that nothing needs: {some(left, 3)}"
        remedy = "another process may be writing; if not, molquery compact removes them"
        yield _note("leftovers", what, remedy)
    else:
        yield _ok("leftovers", "none")


def _content(database: Database, state: State, tell: Progress) -> Iterator[Finding]:
    root = database.path
    yield _ok("manifest", f"version {state['version']}, format {state['format_version']}")
    records, said = _records(root, state)
    yield from said
    lost = _damaged(database, state, records, tell)
    yield from _files(database, state, records, lost)
    broken = {name.split(".lance/")[0] for name in lost.keys() & manifest.table_files(state).keys()}
    sound = [spec for spec in (SLIDES, PROFILES) if database.has(spec) and spec.name not in broken]
    for spec in sound:
        yield from _rows(database, spec)
    if not lost.keys() & manifest.space_files(state).keys():
        yield from _space(database, sound)
    yield from _indexes(database, state, lost)
    yield from _stored(database, state, lost)
    if PROFILES in sound:
        yield from _gene_table(database)


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free
    need = max(_LITTLE_DISK, sum(p.stat().st_size for p in root.glob("*.lance/data/*")))
    if free < need:
        yield _warning(
            "disk",
            f"only {free / 1e9:.1f} GB are free; a command may need {need / 1e9:.1f} GB",
            "make room; molquery compact --keep 1 drops old versions",
        )
    else:
        yield _ok("disk", f"{free / 1e9:.1f} GB are free")
    if not os.access(root, os.W_OK):
        yield _note("permissions", "the database can be read, not written")


def _writer(root: Path) -> Iterator[Finding]:
    if not (root / schema.WRITER).exists():
        return
    writer = lock.writer(root)
    if writer is not None and writer.running is not False:
        yield _note("writer", f"writing now, or ended without a word: {writer}")
        return
    yield _warning(
        "writer",
        f"the last command that wrote did not finish: {writer or 'unknown'}",
        f"its change is no part of the database, and {_REPAIR} or the next write cleans up",
        mends=True,
    )


def _unreadable(root: Path, error: DatabaseError) -> Finding:
    told = error.what + (f": {error.found}" if error.found else "")
    if "on-disk format" in error.what:
        return _error("manifest", told, error.hint or "")
    if manifest.newest_record(root) is None:
        return _error("manifest", told, "restore the directory from a snapshot or other backup")
    remedy = f"{_REPAIR} makes it anew from the version that it named"
    return _error("manifest", told, remedy, mends=True)


def _records(root: Path, state: State) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The versions that are kept and can be read, and findings on the others."""
    found, said = [], []
    kept = [number for number in manifest.kept_versions(root) if number <= state["version"]]
    for number in kept:
        try:
            found.append(manifest.read_record(root, number))
        except DatabaseError as error:
            if number != state["version"]:
                remedy = "it cannot be restored; molquery compact --keep N drops old versions"
                said.append(_warning("versions", error.what, remedy))
    if state["version"] not in [record["version"] for record in found]:
        what = f"what is kept of version {state['version']}, the current one, is damaged or missing"
        said.append(_warning("versions", what, f"{_REPAIR} writes it anew", mends=True))
    return found, said or [_ok("versions", f"{len(found)} are kept")]


def _damaged(
    database: Database, state: State, records: Sequence[State], tell: Progress
) -> dict[str, str]:
    """Files that are named and are not what was written: their names, and what is wrong."""
    wanted = manifest.derived_files(state)
    for version in (*records, state):
        wanted |= manifest.truth_files(version)
    lost = {}
    for done, (name, digest) in enumerate(sorted(wanted.items())):
        tell("reading files", done, len(wanted))
        try:
            if database.digest(name) != digest:
                lost[name] = "damaged (its sha256 differs)"
        except FileNotFoundError:
            lost[name] = "missing"
        except OSError as error:
            lost[name] = f"unreadable ({error.strerror})"
    tell("reading files", len(wanted), len(wanted))
    for name in [name for name in lost if name.endswith(".sums")]:  # nothing is read without them
        lost.setdefault(name.removesuffix(".sums"), f"without its sums: {name} is {lost[name]}")
    return lost


def _files(
    database: Database, state: State, records: Sequence[State], lost: Mapping[str, str]
) -> Iterator[Finding]:
    """Findings on the files that versions consist of."""
    now = manifest.truth_files(state)
    whole = [r["version"] for r in records if not lost.keys() & manifest.truth_files(r).keys()]
    filled = [r["version"] for r in records if r["version"] in whole and r["tables"]]
    back = f"molquery restore --version {max(filled)}, or " if filled else ""
    shared = _only_shared(database, state, lost)
    for name in sorted(lost.keys() & now.keys()):
        what = f"{name} is {lost[name]}"
        copy = f"copy it from a snapshot (sha256 {now[name][:12]}…), or"
        if name in shared:
            remedy = f"{_REPAIR} projects slides and profiles anew"
            yield _error("shared vectors", what, remedy, mends=True)
        elif name in manifest.collection_files(state):
            yield _error("gene sets", what, "molquery genesets add FILE --name NAME --overwrite")
        elif name in manifest.space_files(state):
            yield _error("space", what, f"{copy} {back}molquery align")
        else:
            yield _error("tables", what, f"{copy} {back}ingest the files into a new database")
    for record in records:
        gone = sorted((lost.keys() & manifest.truth_files(record).keys()) - now.keys())
        if gone:
            what = f"version {record['version']} cannot be restored: {gone[0]} is {lost[gone[0]]}"
            remedy = "copy it from a snapshot; molquery compact --keep N drops old versions"
            yield _warning("versions", what, remedy)
    if not lost.keys() & now.keys():
        yield _ok("files", f"{len(now)} files of tables, spaces and gene sets are whole")


def _only_shared(database: Database, state: State, lost: Mapping[str, str]) -> set[str]:
    """The files of tables that hold shared vectors alone, which can be projected anew."""
    found: set[str] = set()
    for spec in schema.TABLES.values():
        held = state["tables"].get(spec.name, {}).get("files", {})
        own = [f"{spec.name}.lance/{file}" for file in held]
        if own and not any(name in lost for name in own if "/_versions/" in name):
            found |= {f"{spec.name}.lance/{file}" for file in database.only_shared(spec)}
    return found


def _rows(database: Database, spec: TableSpec) -> Iterator[Finding]:
    table = database.read(spec, [spec.key])
    twice = [key for key, n in Counter(table[spec.key].to_pylist()).items() if n > 1]
    empty = sum(int(gone.all(axis=1).sum()) for gone in _missing(database, spec, spec.vector))
    if twice:
        remedy = f"molquery delete {spec.name} --where …, then ingest them again"
        yield _error(spec.name, f"{len(twice)} ids are there twice: {some(twice, 3)}", remedy)
    if empty:
        yield _error(spec.name, f"{empty} rows have no {spec.vector}", "ingest their files again")
    if len(table) != database.count(spec):
        what = f"{len(table)} rows are there, {database.count(spec)} were written"
        yield _error(spec.name, what, "restore the directory from a snapshot or other backup")
    if not twice and not empty:
        yield _ok(spec.name, f"{len(table)} rows, each id once")
    pieces = sum(f.startswith("data/") for f in database.manifest()["tables"][spec.name]["files"])
    if pieces > _MANY_PIECES:
        yield _note(spec.name, f"they are in {pieces} files, which is slow", "molquery compact")


def _missing(database: Database, spec: TableSpec, column: str) -> Iterator[Bools]:
    """(n, d) the missing values of vectors, some rows at a time, of all rows that are there."""
    there = np.arange(database.dataset(spec).count_rows())  # not always as many as were written
    for _, rows in database.batches(spec, [column], rows=there):
        yield np.isnan(list_to_matrix(rows[column]))


def _space(database: Database, sound: Sequence[TableSpec]) -> Iterator[Finding]:
    facts = space_facts(database)
    if facts is None:
        yield _note("space", "there is none yet", "molquery align")
        return
    pairs = {
        SLIDES: [("encoder", "encoder"), ("kind", "kind"), ("slide_dim", "dim")],
        PROFILES: [("n_genes", "dim")],
    }
    misfit = [
        f"{ours} {facts[ours]}, where the {spec.name} have {database.facts(spec).get(theirs)}"
        for spec in sound
        for ours, theirs in pairs[spec]
        if facts[ours] != database.facts(spec).get(theirs)
    ]
    if misfit:
        yield _error("space", f"it was learned for {'; '.join(misfit)}", "molquery align")
        return
    space_id = database.manifest()["spaces"][DEFAULT_SPACE]["space_id"]
    yield _ok("space", f"{space_id[:12]}, for {facts['encoder']}")
    column = schema.shared_column(space_id)
    for spec in sound:
        without = database.count(spec)
        if column in database.dataset(spec).schema.names:
            missing = _missing(database, spec, column)
            without = sum(int(gone.any(axis=1).sum()) for gone in missing)
        if without:
            what = f"{without} {spec.name} have none in the space"
            yield _error("shared vectors", what, f"{_REPAIR} projects them", mends=True)
        else:
            yield _ok("shared vectors", f"all {database.count(spec)} {spec.name} have one")


def _indexes(database: Database, state: State, lost: Mapping[str, str]) -> Iterator[Finding]:
    for key, entry in sorted(state["indexes"].items()):
        try:
            problem = index.why_stale(database, entry, dict(state))
        except MolqueryError as error:
            problem = error.what
        if entry["file"] in lost:
            problem = f"its file is {lost[entry['file']]}"
        if entry["file"] not in lost and problem == index.EARLIER:
            what = f"{key}: {problem}; queries use the stored vectors instead"
            yield _note("indexes", what, "molquery index build")
        elif problem:
            what = f"{key}: {problem}; queries scan every row instead"
            yield _warning("indexes", what, f"{_REPAIR}, or molquery index build", mends=True)
        elif new := state["tables"][entry["table"]]["rows"] - entry["rows"]:
            what = f"{key}: {new} rows came since it was built, and are scanned beside it"
            yield _note("indexes", what, "molquery index build")
        else:
            told = f"{entry['rows']} rows, recall@10 {entry['recall_at_10']:.3f}"
            yield _ok("indexes", f"{key}: {told}")
    covered = {entry["table"] for entry in state["indexes"].values()}
    for name in sorted(state["tables"].keys() - covered):
        if state["spaces"]:
            what = f"the {name} have none: queries scan every row"
            yield _note("indexes", what, "molquery index build")


def _stored(database: Database, state: State, lost: Mapping[str, str]) -> Iterator[Finding]:
    """Findings on the stored predictions and on the sidecars."""
    for section in ("predictions", "sidecars"):
        for key, entry in sorted(state[section].items()):
            if entry["file"] in lost:
                what = f"{entry['file']} is {lost[entry['file']]}; queries are slow without it"
                yield _warning(section, what, _REPAIR, mends=True)
            elif _is_stale(database, state, section, key):
                what = f"{entry['file']} is of an earlier state"
                yield _note(section, what, "the next search makes it anew")
            else:
                yield _ok(section, f"{entry['file']} is current")


def _is_stale(database: Database, state: State, section: str, key: str) -> bool:
    entry = state[section][key]
    if section == "sidecars":
        held = state["tables"].get(key, {})
        return bool(entry["vectors_version"] != held.get("vectors_version"))
    if key not in state["spaces"] or len(state["tables"]) < len(schema.TABLES):
        return True
    return bool(entry["state"] != prepared.state(database, state["spaces"][key]["space_id"]))


def _gene_table(database: Database) -> Iterator[Finding]:
    held, now = database.facts(PROFILES).get("gene_table"), genes.table_version()
    if held == now:
        yield _ok("gene table", now)
    else:
        what = f"the genes were named by {held or 'an unknown table'}; this molquery has {now}"
        remedy = "gene sets match by old and new names; new names need a new database"
        yield _note("gene table", what, remedy)


def _leftovers(root: Path, state: State) -> Iterator[Finding]:
    left = leftovers.leftovers(root, state)
    if left:
        size = sum(path.stat().st_size for path in left if path.is_file())
        named = some((path.relative_to(root) for path in left), 3)
        what = f"{len(left)} files that nothing needs, {size / 1e6:.1f} MB: {named}"
        yield _warning("leftovers", what, f"{_REPAIR} removes them", mends=True)
    else:
        yield _ok("leftovers", "none")
    if strange := leftovers.strangers(root, state):
        what = f"{len(strange)} files that molquery does not know: {some(strange, 3)}"
        yield _note("other files", what, "they do no harm")
