"""The formats that molquery reads, and the three functions that read them.

A new tabular format is one module with a `Reader` that gives an Arrow table, and one line in
`TABLE_READERS`: it then serves slides, profiles and metadata. Any other format is one module and
one line in `SLIDE_READERS` or `PROFILE_READERS`. The first reader that recognises a file reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from molquery.errors import FileFormatError, some
from molquery.readers import (
    arrow,
    cbioportal,
    columns,
    delimited,
    exported,
    gct,
    gdc_star,
    h5ad,
    parquet,
    rsem,
    salmon,
    trident,
)
from molquery.readers.base import Options, Profiles, Reader, Slides, T
from molquery.readers.detect import choose, describe, read_head
from molquery.readers.profile_table import profiles_from_table
from molquery.readers.slide_table import slides_from_table

TABLE_READERS: tuple[Reader[pa.Table], ...] = (
    parquet.READER,
    arrow.READER,
    delimited.READER,
)


def _through_table(
    reader: Reader[pa.Table], convert: Callable[[pa.Table, Path, Options], T]
) -> Reader[T]:
    def read(path: Path, options: Options) -> T:
        return convert(reader.read(path, options), path, options)

    return Reader(reader.name, reader.sniff, read)


SLIDE_READERS: tuple[Reader[Slides], ...] = (
    exported.SLIDES_READER,
    trident.READER,
    h5ad.SLIDES,
    *(_through_table(reader, slides_from_table) for reader in TABLE_READERS),
)

#: Formats with one sample a file; a directory of profiles is read for these alone.
ONE_SAMPLE_READERS: tuple[Reader[Profiles], ...] = (gdc_star.READER, salmon.READER, rsem.READER)

PROFILE_READERS: tuple[Reader[Profiles], ...] = (
    exported.PROFILES_READER,
    *ONE_SAMPLE_READERS,
    gct.READER,
    cbioportal.READER,
    h5ad.PROFILES,
    *(_through_table(reader, profiles_from_table) for reader in TABLE_READERS),
)

#: Nothing said by the user.
DEFAULTS = Options()


def read_slides(path: Path, options: Options = DEFAULTS) -> Iterator[Slides]:
    """Slides, one item per file; a directory gives those of its files, sorted by name.

    Hidden files and those that begin with `_` (TRIDENT's configurations and logs) are passed over.
    A file of a directory that no reader recognises gives an item without slides, whose `skipped`
    says what it looks like; a damaged file stops the reading.

    Raises:
        InputError: there is nothing at `path`.
        FileFormatError: a file is of no known format, or damaged.
        ColumnError: a column is missing, ambiguous or of the wrong type.
    """
    if not path.is_dir():
        reader = choose(SLIDE_READERS, path, "slide vectors")
        return iter((reader.read(path, options),))
    files = [p for p in sorted(path.iterdir()) if p.is_file() and p.name[0] not in "._"]
    if not any(_readable(file) for file in files):
        folders = [p.name for p in sorted(path.iterdir()) if p.is_dir() and p.name[0] not in "._"]
        raise FileFormatError(
            f"no files of slide vectors in {path}",
            found=some([f.name for f in files] + [f"{name}/" for name in folders]) or "nothing",
            hint="formats read: " + ", ".join(reader.name for reader in SLIDE_READERS),
        )
    return (_read_one(file, options) for file in files)


def read_profiles(path: Path, options: Options = DEFAULTS) -> Profiles:
    """The expression profiles of a file.

    Raises:
        InputError: there is no file at `path`.
        FileFormatError: the file is of no known format or damaged, or it cannot be told which
            axis holds the genes.
        ColumnError: a column is missing or of the wrong type.
    """
    return choose(PROFILE_READERS, path, "expression profiles").read(path, options)


def profile_files(path: Path) -> list[Path]:
    """The files of profiles that a path stands for: itself, or those of a directory, sorted.

    A directory is searched with all its folders (the GDC and salmon make one a sample), and only
    for formats with one sample a file: which of several matrices is meant is for the user to say.

    Raises:
        FileFormatError: a directory holds no such file.
    """
    if not path.is_dir():
        return [path]
    files = [
        file
        for folder, folders, names in os.walk(path)
        for file in (Path(folder, name) for name in sorted(names) if name[0] not in "._")
        if folders.sort() is None and file.is_file()
    ]
    found = [f for f in files if _one_sample(f)]
    if not found:
        raise FileFormatError(
            f"no files of one expression profile each in {path}",
            found=some(f.name for f in files) or "no files",
            hint="name a file in it; read from directories: "
            + ", ".join(reader.name for reader in ONE_SAMPLE_READERS),
        )
    return found


def _one_sample(file: Path) -> bool:
    head = read_head(file)
    return any(reader.sniff(file, head) for reader in ONE_SAMPLE_READERS)


def read_table(path: Path) -> pa.Table:
    """A metadata table with every column of the file; text is plain `string`.

    Raises:
        InputError: there is no file at `path`.
        FileFormatError: the file is of no known format, or damaged.
        ColumnError: two columns share a name.
    """
    table = choose(TABLE_READERS, path, "metadata").read(path, Options())
    table = columns.plain(table)
    return columns.metadata_of(table, range(table.num_columns), path)


def _readable(file: Path) -> bool:
    head = read_head(file)
    return any(reader.sniff(file, head) for reader in SLIDE_READERS)


def _read_one(file: Path, options: Options) -> Slides:
    head = read_head(file)
    for reader in SLIDE_READERS:
        if reader.sniff(file, head):
            return reader.read(file, options)
    none = pa.table({"id": pa.array([], pa.string())}).select([])
    skipped = {f"no slide vectors: {describe(file, head)}": (file.name,)}
    return Slides((), np.empty((0, 0), dtype=np.float32), None, none, skipped, str(file))
