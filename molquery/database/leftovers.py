"""What is in a database's directory and in no version of it: left by commands that were killed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from molquery import schema
from molquery.database import manifest, tables
from molquery.errors import DatabaseError
from molquery.files import is_left_behind, is_temporary

_DERIVED = re.compile(r".+-[0-9a-f]{12}\.(faiss|arrow|safetensors)(\.sums)?")


def is_derived(name: str) -> bool:
    """True for the names that derived files have in their directory."""
    return _DERIVED.fullmatch(name) is not None


def derived(root: Path, current: Mapping[str, Any]) -> list[Path]:
    """Derived files that the manifest does not name: others have taken their place."""
    named = manifest.derived_files(current)
    return [
        path
        for path in (root / schema.INDEXES).glob("*")
        if is_derived(path.name) and f"{schema.INDEXES}/{path.name}" not in named
    ]


def leftovers(root: Path, current: Mapping[str, Any]) -> list[Path]:
    """Unfinished files of processes that have ended, and what no version that is kept consists of.

    Files of which molquery does not know what they are are not among them; nor is anything of the
    tables, spaces and gene sets while what is kept of some version cannot be read.
    """
    kept = manifest.kept_versions(root)
    found = unfinished_files(root)
    found += derived(root, current)
    found += [manifest.record_path(root, v) for v in kept if v > current["version"]]
    try:
        records = [manifest.read_record(root, v) for v in kept if v <= current["version"]]
    except DatabaseError:
        return sorted(found)
    return sorted({*found, *_unneeded(root, [current, *records])})


def unfinished_files(root: Path) -> list[Path]:
    """Temporary files of processes that have ended."""
    return [path for path in root.rglob(".*.tmp") if is_left_behind(path)]


def table_files(root: Path) -> set[Path]:
    """Every file of the tables, whatever it is."""
    return {
        Path(folder, file)
        for spec in schema.TABLES.values()
        for folder, _, files in os.walk(tables.folder_of(root, spec))
        for file in files
    }


def of_change(root: Path, before: set[Path], after: Mapping[str, Any]) -> list[Path]:
    """Files of the tables that came with a change and are not part of what it led to.

    Lance keeps each of its steps as a version. `before` are the files from before the change.
    """
    needed = manifest.table_files(after)
    numbers = {f"{name}.lance": {e["version"]} for name, e in after["tables"].items()}
    found = []
    for path in table_files(root) - before:
        folder, _, inside = path.relative_to(root).as_posix().partition("/")
        # Of a table that has not come to be, nothing is kept.
        kept = folder in numbers and tables.belongs(inside, numbers[folder])
        if f"{folder}/{inside}" not in needed and not kept:
            found.append(path)
    return found


def strangers(root: Path, current: Mapping[str, Any]) -> list[str]:
    """Files in a database's directory that are not molquery's, or not known to be."""
    known = {schema.MANIFEST, schema.LOCK, schema.WRITER}
    known |= manifest.truth_files(current).keys() | manifest.derived_files(current).keys()
    known |= {str(path.relative_to(root)) for path in leftovers(root, current)}
    folders = {f"{name}.lance" for name in schema.TABLES} | {schema.VERSIONS}
    found = []
    for path in root.rglob("*"):
        name = path.relative_to(root)
        mine = name.parts[0] in folders or str(name) in known or is_temporary(path)
        # Spaces and gene sets of earlier versions: what no version needs is a leftover.
        mine = mine or name.parts[0] in (schema.SPACES, schema.GENESETS)
        if path.is_file() and not mine:
            found.append(str(name))
    return sorted(found)


def remove(root: Path, doomed: list[Path]) -> list[str]:
    """Remove files and directories of a database; returns the names of those that are gone."""
    removed = []
    for path in doomed:
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            removed.append(str(path.relative_to(root)))
    for folder in (root / schema.SPACES).glob("*/*"):
        with suppress(OSError):
            folder.rmdir()  # of a space that has lost its files; others are not empty
    return removed


def _unneeded(root: Path, versions: list[Any]) -> Iterator[Path]:
    needed = set().union(*(manifest.truth_files(version) for version in versions))
    for spec in schema.TABLES.values():
        folder = tables.folder_of(root, spec)
        numbers = {v["tables"][spec.name]["version"] for v in versions if spec.name in v["tables"]}
        if folder.is_dir() and not numbers:
            yield folder
            continue
        for path in folder.rglob("*"):
            inside = str(path.relative_to(folder))
            named = f"{folder.name}/{inside}" in needed or tables.belongs(inside, numbers)
            if path.is_file() and not named:
                yield path
    for pattern in (f"{schema.SPACES}/*/*/*", f"{schema.GENESETS}/*-????????????????.json"):
        for path in root.glob(pattern):
            if str(path.relative_to(root)) not in needed and not is_temporary(path):
                yield path
