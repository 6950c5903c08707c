"""The manifest: which state of the tables is the database, and what is derived from it.

`manifest.json` names the Lance version of each table with the checksums of its files, the spaces,
the registered gene sets and the tags: together one version of the database. What was changed by a
command takes effect when the manifest is replaced, in one step. Each version is also kept by itself
in `versions/`, so that it can be listed and restored. Beside the version the manifest names what is
derived from it (indexes, predictions, sidecars), which can be built anew and makes no version.

Every file carries the sha256 of its own content, so that a damaged one is never believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from molquery import schema
from molquery.errors import DatabaseError
from molquery.files import write_bytes

#: What a version of the database consists of; a change of it is a new version.
TRUTH = ("tables", "spaces", "collections", "tags")
#: What can be built anew from a version.
DERIVED = ("indexes", "predictions", "sidecars")
#: What is told of a version.
_ABOUT = ("version", "time", "command", "details", "molquery")
_SHA256 = "sha256"

Manifest = dict[str, Any]


def empty() -> Manifest:
    """The manifest of a database that holds nothing."""
    about = {"version": 0, "time": "", "command": "", "details": "", "molquery": ""}
    sections: Manifest = {name: {} for name in (*TRUTH, *DERIVED)}
    return {"format_version": schema.FORMAT_VERSION, **about, **sections}


def read(root: Path) -> Manifest:
    """The manifest as it is on disk now.

    Raises:
        DatabaseError: it is damaged, or its format version is not known to this molquery.
    """
    return _read(
        root / schema.MANIFEST,
        f"the manifest of {root} is damaged",
        "molquery doctor says what is left; molquery doctor --repair makes it anew where it can",
        (*_ABOUT, *TRUTH, *DERIVED),
    )


def write(root: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest; this is the moment at which a change takes effect."""
    write_bytes(root / schema.MANIFEST, sealed(manifest))


def truth(manifest: Mapping[str, Any]) -> Manifest:
    """The part of a manifest that makes a version."""
    return {name: manifest[name] for name in TRUTH}


def record(manifest: Mapping[str, Any]) -> Manifest:
    """What is kept of a version after later ones have come."""
    return {name: manifest[name] for name in ("format_version", *_ABOUT, *TRUTH)}


def record_path(root: Path, version: int) -> Path:
    """Where a version is kept."""
    return root / schema.VERSIONS / f"{version:06d}.json"


def read_record(root: Path, version: int) -> Manifest:
    """A version that is kept.

    Raises:
        DatabaseError: there is none of that number, or what is kept of it is damaged.
    """
    path = record_path(root, version)
    if not path.is_file():
        kept = kept_versions(root)
        raise DatabaseError(
            f"{root} has no version {version}",
            found=f"versions {kept[0]} to {kept[-1]}" if kept else None,
            hint="molquery history",
        )
    return _read(
        path, f"version {version} of {root} cannot be read: {path.name} is damaged",
        "molquery history lists the others", (*_ABOUT, *TRUTH),
    )  # fmt: skip


def write_record(root: Path, manifest: Mapping[str, Any]) -> None:
    """Keep a version."""
    path = record_path(root, manifest["version"])
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, sealed(record(manifest)))


def newest_record(root: Path) -> Manifest | None:
    """The newest version that is kept, None where it cannot be read: older ones will not do."""
    numbers = kept_versions(root)
    try:
        found = read_record(root, numbers[-1]) if numbers else None
    except DatabaseError:
        return None
    return None if found is None else {k: v for k, v in found.items() if k != _SHA256}


def kept_versions(root: Path) -> list[int]:
    """The numbers of the versions that are kept, in order, damaged ones included."""
    found = (root / schema.VERSIONS).glob("*.json")
    return sorted(int(path.stem) for path in found if path.stem.isdigit())


def digests(root: Path, name: str) -> set[str]:
    """The sha256 that a file has in the manifest and in the versions that are kept."""
    found = []
    with suppress(DatabaseError):
        found.append(read(root))
    for version in kept_versions(root):
        with suppress(DatabaseError):
            found.append(read_record(root, version))
    return {held[name] for held in map(truth_files, found) if name in held}


def truth_files(version: Mapping[str, Any]) -> dict[str, str]:
    """The files that a version consists of, as paths inside the database, and their sha256."""
    return table_files(version) | space_files(version) | collection_files(version)


def space_files(version: Mapping[str, Any]) -> dict[str, str]:
    """The files of a version's spaces, as paths inside the database, and their sha256."""
    return {
        f"{schema.SPACES}/{name}/{entry['space_id'][:12]}/{file}": digest
        for name, entry in version["spaces"].items()
        for file, digest in entry["sha256"].items()
    }


def collection_files(version: Mapping[str, Any]) -> dict[str, str]:
    """The files of a version's registered gene sets, and their sha256."""
    return {
        f"{schema.GENESETS}/{entry['file']}": entry["sha256"]
        for entry in version["collections"].values()
    }


def table_files(version: Mapping[str, Any]) -> dict[str, str]:
    """The files of a version's tables, and their sha256."""
    return {
        f"{table}.lance/{file}": digest
        for table, entry in version["tables"].items()
        for file, digest in entry["files"].items()
    }


def derived_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The files of what is derived, and their sha256."""
    entries = [entry for section in DERIVED for entry in manifest[section].values()]
    sums = {f"{e['file']}.sums": e["sums"] for e in entries if "sums" in e}
    return {e["file"]: e["sha256"] for e in entries} | sums


def sealed(content: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest or a record, with the sha256 of its own content."""
    whole = {**content, _SHA256: _digest(content)}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def parse(content: bytes, name: str, hint: str) -> Manifest:
    """A manifest from its bytes; `name` is the database, for messages.

    Raises:
        DatabaseError: as `read`.
    """
    what = f"the manifest of {name} is damaged"
    return _parse(content, name, what, hint, (*_ABOUT, *TRUTH, *DERIVED))


def _digest(content: Mapping[str, Any]) -> str:
    """The sha256 of the compact JSON of everything but the digest itself, keys sorted."""
    plain = {key: value for key, value in content.items() if key != _SHA256}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path, what: str, hint: str, sections: tuple[str, ...]) -> Manifest:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatabaseError(what, found=str(error), hint=hint) from error
    return _parse(content, str(path.parent), what, hint, sections)


def _parse(told: bytes, name: str, what: str, hint: str, sections: tuple[str, ...]) -> Manifest:
    try:
        content = json.loads(told)
        version = content["format_version"]
        if not isinstance(version, int):
            raise TypeError("its format_version is no number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DatabaseError(what, found=found, hint=hint) from error
    if version != schema.FORMAT_VERSION:
        age = "a newer" if version > schema.FORMAT_VERSION else "an older"
        raise DatabaseError(
            f"{name} has {age} on-disk format than this molquery reads",
            found=f"format {version}; this molquery reads format {schema.FORMAT_VERSION}",
            hint="use the molquery that made it, or ingest the files into a new database",
        )
    if content.get(_SHA256) != _digest(content):
        raise DatabaseError(what, found="its sha256 is not the one it was written with", hint=hint)
    if missing := [name for name in sections if name not in content]:
        raise DatabaseError(what, found=f"no {missing[0]}", hint=hint)
    return dict(content)
