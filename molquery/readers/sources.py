"""The files that a user means: by a file, a directory, a glob, a list, or a text file of paths.

Which folders of a tool's output directory hold slides is known here, from their names: of a TRIDENT
job the `slide_features_*` (else the patches' `features_*`), of CLAM `h5_files` and `pt_files`. What
is in a file is the readers' to find.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from molquery.errors import InputError, MismatchError, some
from molquery.readers import numpy_arrays, patches, trident, wsidata
from molquery.readers.base import Options
from molquery.readers.detect import BOM, is_text, missing, read_head

CLAM = ("h5_files", "pt_files")

#: A line of a list is a path; longer than this no system has one.
LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """One file (or zarr store) to read.

    Attributes:
        path: where it is.
        named: the user named it, so that it is an error if it holds no slides; files that were
            found in a directory or by a glob may be something else.
    """

    path: Path
    named: bool


def find(paths: Sequence[Path], options: Options) -> list[Source]:
    """Every source once, in the order given; those of a directory by folder and name.

    Raises:
        InputError: there is nothing at a path, or a glob matches nothing.
        MismatchError: a directory has folders of several encoders, and none is chosen.
    """
    found: dict[tuple[Path, str], Source] = {}
    real: dict[Path, Path] = {}
    for path in paths:
        for source in _expand(path, options):
            # By the folder behind any links, since a glob follows loops of them for a while; a
            # link to a file is another slide, with a name of its own.
            folder = source.path.parent
            if folder not in real:
                real[folder] = folder.resolve()
            found.setdefault((real[folder], source.path.name), source)
    return list(found.values())


def _expand(path: Path, options: Options) -> Iterator[Source]:
    if path.is_dir():
        yield from (Source(p, named=path == p) for p in in_directory(path, options))
    elif path.exists():
        listed = _listed(path)
        yield from (Source(path, named=True),) if listed is None else _each(listed, options)
    elif any(mark in str(path) for mark in "*?["):
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise InputError(f"nothing matches {path}")
        for match in map(Path, matches):
            if match.is_dir():
                yield from _expand(match, options)
            elif match.name[0] not in "._":
                yield Source(match, named=False)
    else:
        raise missing(path)


def _each(paths: Sequence[Path], options: Options) -> Iterator[Source]:
    for path in paths:
        if path.is_dir():
            yield from _expand(path, options)
        elif path.exists():
            yield Source(path, named=True)
        else:
            raise missing(path)


def _listed(path: Path) -> list[Path] | None:
    """The paths of a text file whose first line is one; relative to here, or to the file."""
    head = read_head(path).removeprefix(BOM)
    if not head or head[:1] in b"<{[\x89" or not is_text(head[:LONGEST_PATH]):
        return None
    first = _lines(head.decode(errors="replace"))
    at = next(
        (place for place in (Path(), path.parent) if first and _is_there(place, first[0])), None
    )
    if at is None:
        return None
    return [at / line for line in _lines(path.read_text("utf-8-sig", errors="replace"))]


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _is_there(place: Path, line: str) -> bool:
    try:
        return len(line) < LONGEST_PATH and (place / line).exists()
    except (OSError, ValueError):
        return False


def in_directory(root: Path, options: Options) -> list[Path]:
    """The files and zarr stores of a directory that may hold slides.

    Files directly in it are taken alone; only where there is none, those of the folders below.

    Raises:
        InputError: it cannot be listed.
        MismatchError: it has folders of several encoders, and none is chosen.
    """
    if wsidata.is_store(root):
        return [root]
    files = _walk(root)
    for prefix in (trident.FOLDER, patches.FOLDER):
        named = {p: p.name.removeprefix(prefix) for p in files if p.name.startswith(prefix)}
        if options.encoder is not None and prefix != patches.FOLDER:
            chosen = {p: e for p, e in named.items() if e.lower() == options.encoder.lower()}
            patched = [
                p for p in files if p.name.lower() == patches.FOLDER + options.encoder.lower()
            ]
            named = chosen if chosen or patched else named
        elif options.encoder is not None:
            named = {
                p: e for p, e in named.items() if e.lower() == options.encoder.lower()
            } or named
        if named:
            _one_encoder(root, named)
            return [file for folder in named for file in files[folder]]
    if tensors := _clam(files):
        return tensors
    return files.get(root) or [file for folder in files for file in files[folder]]


def _one_encoder(root: Path, named: dict[Path, str]) -> None:
    encoders = sorted(set(named.values()))
    if len(encoders) > 1:
        raise MismatchError(
            f"{root} holds the features of several encoders",
            found=some(encoders),
            hint=f"choose one: --encoder {encoders[0]}",
        )


def _clam(files: dict[Path, list[Path]]) -> list[Path]:
    """CLAM's features; of a slide with both files the HDF5 one, which is the same tensor."""
    chosen: list[Path] = []
    for name in CLAM:
        for folder in files:
            if folder.name == name:
                twins = {(p.parent.parent, p.stem) for p in chosen if p.parent.name != name}
                chosen += [p for p in files[folder] if (p.parent.parent, p.stem) not in twins]
    return chosen


def _walk(root: Path) -> dict[Path, list[Path]]:
    """Each directory with its files, in order of name; no directory twice, so that loops end.

    Hidden files, and those that begin with `_` (TRIDENT's configurations and logs), are passed
    over, as are the id lists of `.npy` files. Zarr stores count as files.
    """
    seen: set[tuple[int, int]] = set()
    found: dict[Path, list[Path]] = {}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise InputError(f"{root} cannot be listed", found=error.strerror) from error
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        files: list[Path] = []
        folders: list[Path] = []
        for entry in entries:
            if entry.name[0] in "._":
                continue
            path = folder / entry.name
            if _is(entry, directory=True):
                (files if wsidata.is_store(path) else folders).append(path)
            elif _is(entry, directory=False):
                files.append(path)
        found[folder] = _without_id_lists(files)
        waiting += reversed(folders)
    return {folder: files for folder, files in found.items() if files}


def _is(entry: os.DirEntry[str], *, directory: bool) -> bool:
    try:
        return entry.is_dir() if directory else entry.is_file()
    except OSError:  # a link to itself
        return False


def _without_id_lists(files: list[Path]) -> list[Path]:
    lists = {numpy_arrays.id_list(file) for file in files if file.suffix == ".npy"}
    return [file for file in files if file not in lists]
