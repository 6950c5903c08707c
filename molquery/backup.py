"""A snapshot: a consistent, checked copy of a database, made while others write to it.

The copy is a database like any other: it can be asked, and restoring it is to use it, or to copy it
back. It holds the current version, and none before it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from molquery.database import Database, manifest
from molquery.database.manifest import Manifest
from molquery.errors import DatabaseError, OutputError
from molquery.files import is_uri, sweep, sync, temporary_directory, umask
from molquery.progress import Progress

_BLOCK = 1 << 20
#: How often a copy begins again because the version that it copies was dropped meanwhile.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy that was made; `left_out` names derived files that were damaged."""

    path: Path | str
    version: int
    files: int
    bytes: int
    left_out: tuple[str, ...]


def snapshot(
    database: Database, target: Path | str, *, progress: Progress | None = None
) -> Snapshot:
    """Copy the current version of a database to a directory, or URI, that is empty or not there.

    Every file is compared with its checksum while it is copied. Where the copy fails, nothing is
    left at `target`.

    Raises:
        OutputError: something is at `target` already, it lies in the database, or it cannot be
            written.
        DatabaseError: a file of the tables, spaces or gene sets is damaged.
    """
    if is_uri(target):
        return _publish(database.pinned(), str(target), progress or (lambda *_: None))
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists and is not empty", hint="give a path for a new one")
    if target.resolve().is_relative_to(database.path.resolve()):
        raise OutputError(f"{target} lies in the database itself", hint="give a path outside of it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = temporary_directory(target)
    except OSError as error:
        raise OutputError(f"cannot write to {target.parent}", found=error.strerror) from error
    try:
        for attempt in range(_TRIES):
            try:
                made = _copy(database.pinned(), folder, progress or (lambda *_: None))
                break
            except FileNotFoundError as error:
                # A compaction has dropped the version; the next try copies the one after it.
                if attempt == _TRIES - 1 or Path(error.filename).is_relative_to(folder):
                    raise DatabaseError(
                        f"{error.filename} is missing",
                        hint="run the same command again; if it fails again, molquery doctor",
                    ) from error
        folder.chmod(0o777 & ~umask())
        os.replace(folder, target)
        sync(target.parent)
        sweep(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}", found=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    version, files, size, left_out = made
    return Snapshot(target, version, files, size, left_out)


def _copy(
    database: Database, folder: Path, progress: Progress
) -> tuple[int, int, int, tuple[str, ...]]:
    state = database.manifest()
    truth, derived = manifest.truth_files(state), manifest.derived_files(state)
    size, done, left_out = 0, 0, []
    for name, digest in {**truth, **derived}.items():
        target = folder / name
        if not target.exists():  # else an earlier try has copied it
            target.parent.mkdir(parents=True, exist_ok=True)
            if name in truth and database.remote:
                database.need({name: digest})
            elif database.remote:
                database.is_whole(name, digest)
            try:
                whole = _copy_file(database.path / name, target) == digest
            except FileNotFoundError:
                if name in truth:
                    raise
                whole = False
            if not whole:
                target.unlink(missing_ok=True)
                if name in truth:
                    raise DatabaseError(
                        f"{database.path / name} is damaged: no snapshot is made of it",
                        hint="molquery doctor",
                    )
                left_out.append(name)
                continue
        size += target.stat().st_size
        done += 1
        progress("copying", done, len(truth) + len(derived))
    copied = _first(state, left_out)
    manifest.write_record(folder, copied)
    manifest.write(folder, copied)
    return int(state["version"]), done, size, tuple(left_out)


def _publish(database: Database, uri: str, progress: Progress) -> Snapshot:
    """Copy a version to an object store; what is sent has been checked just before."""
    from molquery.database.remote import publish

    state = database.manifest()
    truth, derived = manifest.truth_files(state), manifest.derived_files(state)
    database.need(truth)
    left_out = [name for name, digest in derived.items() if not database.is_whole(name, digest)]
    files = [name for name in {**truth, **derived} if name not in left_out]
    size = sum((database.path / name).stat().st_size for name in files)
    place = publish(database.path, files, _first(state, left_out), uri, progress)
    return Snapshot(place, int(state["version"]), len(files), size, tuple(left_out))


def _first(state: Manifest, left_out: Sequence[str]) -> Manifest:
    """The manifest of a copy."""
    copied = manifest.record(state) | {"tags": {}}  # they name versions that the copy does not hold
    for section in manifest.DERIVED:
        copied[section] = {
            k: e for k, e in state[section].items()
            if not {e["file"], f"{e['file']}.sums"} & set(left_out)
        }  # fmt: skip
    return copied


def _copy_file(source: Path, target: Path) -> str:
    """Copy a file; returns the sha256 of what was read and written."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()
