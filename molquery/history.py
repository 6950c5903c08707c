"""The versions of a database: list them, tag them, go back to one, delete rows, give space back.

Every command that changes the truth (tables, spaces, gene sets, tags) makes a version. Going back
makes a new version too, so it can be undone. Versions are kept until `compact` is told to drop
them; deleted rows are gone for good only then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from molquery import schema
from molquery.database import Database, manifest
from molquery.errors import DatabaseError, InputError, OutputError, printable, some
from molquery.schema import PROFILES, SLIDES, TableSpec
from molquery.space import DEFAULT_SPACE, named_groups, space_facts
from molquery.vectors import as_text

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is kept; `damaged` ones can be listed but not restored.

    `slides` and `profiles` are numbers of rows; `space` is the start of the space's id.
    """

    version: int
    time: str
    command: str
    details: str
    slides: int
    profiles: int
    space: str
    tags: tuple[str, ...]
    current: bool
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; `version` is the new one, None where nothing had to change."""

    source: int
    version: int | None
    slides: int
    profiles: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deletion:
    """Rows that are to be deleted, and what goes with them.

    Attributes:
        ids: the keys of the rows; `total` is how many rows the table has.
        patients: of these rows; `elsewhere` is how many rows they have in the other table.
        learned: whether the space was learned from any of these patients.
    """

    table: TableSpec
    where: str
    ids: tuple[str, ...]
    total: int
    patients: tuple[str, ...]
    elsewhere: int
    learned: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did."""

    rows: int
    left: int
    version: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction removed: versions, files, and how many bytes less there are."""

    dropped: tuple[int, ...]
    kept: tuple[int, ...]
    files: int
    bytes: int


def versions(database: Database) -> list[Version]:
    """The versions that are kept, oldest first."""
    current = database.manifest()
    tags: dict[int, list[str]] = {}
    for name, number in sorted(current["tags"].items()):
        tags.setdefault(number, []).append(name)
    found = []
    for number in database.kept_versions():
        here = number == current["version"]
        named = tuple(tags.get(number, ()))
        try:
            record = current if here else manifest.read_record(database.path, number)
        except DatabaseError:
            found.append(Version(number, "", "", "cannot be read", 0, 0, "", named, here, True))
            continue
        rows = {t.name: record["tables"].get(t.name, {}).get("rows", 0) for t in (SLIDES, PROFILES)}
        space = record["spaces"].get(DEFAULT_SPACE, {}).get("space_id", "")[:12]
        found.append(
            Version(
                version=number,
                time=record["time"],
                command=record["command"],
                details=record["details"],
                slides=rows[SLIDES.name],
                profiles=rows[PROFILES.name],
                space=space,
                tags=named,
                current=here,
            )
        )
    return found


def tag(
    database: Database, name: str, version: int | None = None, *, overwrite: bool = False
) -> int:
    """Give a version (the current one by default) a name, by which it is kept; returns its number.

    Raises:
        InputError: the name cannot be one.
        OutputError: the name is taken and `overwrite` is false.
        DatabaseError: there is no such version.
    """
    if not _TAG.fullmatch(name):
        raise InputError(
            f"{printable(name)!r} cannot be a tag",
            hint="a letter, then letters, digits, dots, hyphens and underscores",
        )
    with database.writing(f"history tag {name}") as draft:
        number = int(draft["version"]) if version is None else version
        manifest.read_record(database.path, number)
        if name in draft["tags"] and draft["tags"][name] != number and not overwrite:
            raise OutputError(
                f"version {draft['tags'][name]} has the tag {name} already",
                hint="--overwrite to move it, or another name",
            )
        draft["tags"][name] = number
    return number


def untag(database: Database, name: str) -> None:
    """Take a tag away.

    Raises:
        InputError: there is none of that name.
    """
    with database.writing(f"history untag {printable(name)}") as draft:
        _tagged(draft, name)
        del draft["tags"][name]


def restore(database: Database, version: int | None = None, *, tag: str | None = None) -> Restored:
    """Make the database what it was at a version, in one step, as a new version.

    Tags stay as they are. Indexes and what else is derived come back into use where they belong to
    that state, and are stale otherwise.

    Raises:
        DatabaseError: there is no such version, or one of its files is damaged.
        InputError: not exactly one of version and tag is given, or there is no such tag.
    """
    if (version is None) == (tag is None):
        raise InputError("say which version", hint="--version N or --tag NAME: molquery history")
    with database.writing("restore") as draft:
        number = _tagged(draft, tag) if tag is not None else version
        assert number is not None
        record = manifest.read_record(database.path, number)
        rows = {t.name: record["tables"].get(t.name, {}).get("rows", 0) for t in (SLIDES, PROFILES)}
        same = _content(record) == _content(draft)
        if not same:
            database.take_version(record)
            draft["details"] = f"version {number}"
    notes = []
    if stale := _stale_indexes(database):
        notes.append(f"indexes that are not of this version: {stale} (molquery index build)")
    after = None if same else int(database.manifest()["version"])
    return Restored(number, after, rows[SLIDES.name], rows[PROFILES.name], tuple(notes))


def plan_deletion(database: Database, spec: TableSpec, where: str) -> Deletion:
    """What a deletion would delete; nothing is changed.

    Raises:
        FilterError: the filter is not valid.
        DatabaseError: the table is empty.
    """
    database = database.pinned()
    facts = space_facts(database)
    split_on = facts["split_on"] if facts else schema.PATIENT
    columns = list(dict.fromkeys([spec.key, schema.PATIENT, split_on]))
    columns = [c for c in columns if c in database.dataset(spec).schema.names]
    rows = database.read(spec, columns, where=where)
    patients = sorted({p for p in rows[schema.PATIENT].to_pylist() if p})
    elsewhere = 0
    for other in schema.TABLES.values():
        if other is not spec and database.has(other) and patients:
            held = database.read(other, [schema.PATIENT])[schema.PATIENT].to_pylist()
            elsewhere = sum(p in set(patients) for p in held)
    learned = False
    if facts is not None and split_on in columns:
        groups = set(as_text(rows[split_on]).tolist())
        learned = not groups.isdisjoint(named_groups(database))
    ids = tuple(rows[spec.key].to_pylist())
    return Deletion(spec, where, ids, database.count(spec), tuple(patients), elsewhere, learned)


def delete(database: Database, plan: Deletion, *, purge: bool = False) -> Deleted:
    """Delete the rows of a plan, and everything derived from them.

    With `purge`, earlier versions are dropped too, so that the rows cannot be brought back and no
    file holds them; a space that was learned from them goes as well.

    Raises:
        DatabaseError: other rows satisfy the filter now; nothing has changed.
    """
    spec = plan.table
    with database.writing(f"delete {spec.name}") as draft:
        indexed = bool(draft["indexes"])
        now = tuple(database.read(spec, [spec.key], where=plan.where)[spec.key].to_pylist())
        if now != plan.ids:
            raise DatabaseError(
                f"the {spec.name} have changed meanwhile",
                found=f"{len(now)} rows satisfy the filter, not {len(plan.ids)}",
                hint="run the same command again",
            )
        database.delete_rows(spec, plan.where)
        if not purge:
            draft["details"] += f", where {printable(plan.where, 200)}"
        if purge and plan.learned:
            database.drop_space()
        gone = not draft["spaces"]
    notes = []
    if purge:
        compact(database, purge=True, details=f"{len(now)} {spec.name} deleted for good")
    else:
        notes.append(
            "earlier versions still hold them: molquery restore brings them back, "
            "molquery compact --purge removes them for good"
        )
    if gone:
        notes.append("there is no shared space any more: molquery align")
    elif plan.learned:
        notes.append(
            "the space was learned from some of them, and its file names their patients: "
            "molquery align learns it anew, then molquery index build"
        )
    elif indexed:
        notes.append("the indexes have to be built again: molquery index build")
    if plan.elsewhere:
        other = next(t for t in schema.TABLES.values() if t is not spec)
        notes.append(f"their patients have {plan.elsewhere} {other.name} as well, which stay")
    left = database.count(spec) if database.has(spec) else 0
    return Deleted(len(plan.ids), left, int(database.manifest()["version"]), tuple(notes))


def compact(
    database: Database, *, keep: int | None = None, purge: bool = False, details: str = ""
) -> Compacted:
    """Write the tables without deleted rows, drop old versions, and remove what nothing needs.

    Versions with a tag are kept whatever `keep` says, unless `purge`.

    Args:
        keep: how many of the newest versions are kept; None keeps all.
        purge: keep the current version alone, and no tags.
        details: what history shows beside it.

    Raises:
        InputError: `keep` is not a positive number, or given with `purge`.
    """
    if keep is not None and (keep < 1 or purge):
        raise InputError("--keep takes a number from 1, and not with --purge", found=str(keep))
    before = _size(database)
    with database.writing("compact") as draft:
        database.compact_tables(forget=purge)
        if purge:
            draft["tags"].clear()
            draft["details"] = details or "earlier versions dropped"
    with database.writing("compact") as draft:
        every = manifest.kept_versions(database.path)
        count = 1 if purge else keep or len(every)
        kept = {*every[-count:], *draft["tags"].values(), draft["version"]}
        dropped = tuple(v for v in every if v not in kept)
        for number in dropped:
            manifest.record_path(database.path, number).unlink()
        files = len(database.sweep())
    return Compacted(dropped, tuple(sorted(kept)), files, before - _size(database))


def _content(state: Mapping[str, Any]) -> list[Any]:
    """What tells the content of two states apart: not the numbers that Lance gives its versions."""
    data = {
        name: {file for file in entry["files"] if not file.startswith("_versions/")}
        for name, entry in state["tables"].items()
    }
    return [data, state["spaces"], state["collections"]]


def _tagged(draft: Mapping[str, Any], name: str) -> int:
    number = draft["tags"].get(name)
    if number is None:
        raise InputError(
            f"there is no tag {printable(name)}",
            found=some(draft["tags"]) or "no tags",
            hint="molquery history",
        )
    return int(number)


def _stale_indexes(database: Database) -> str:
    found = database.manifest()
    stale = [
        key
        for key, entry in sorted(found["indexes"].items())
        if found["tables"].get(entry["table"], {}).get("vectors_version")
        != entry["vectors_version"]
        or found["spaces"].get(entry["space"], {}).get("space_id") != entry["space_id"]
    ]
    return some(stale) if stale else ""


def _size(database: Database) -> int:
    return sum(p.stat().st_size for p in database.path.rglob("*") if p.is_file())
