"""The formats that molquery reads, and the three functions that read them.

A new tabular format is one module with a `Reader` that gives an Arrow table, and one line in
`TABLE_READERS`: it then serves slides, profiles and metadata. Any other format is one module and
one line in `SLIDE_READERS` or `PROFILE_READERS`. The first reader that recognises a file reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from molquery.errors import FileFormatError, some
from molquery.readers import (
    arrow,
    columns,
    delimited,
    h5ad,
    numpy_arrays,
    parquet,
    patches,
    pickled,
    sources,
    stamp,
    torch_file,
    trident,
    wsidata,
)
from molquery.readers.base import Options, Profiles, Reader, Slides, T
from molquery.readers.detect import choose, describe, head_of
from molquery.readers.matrix import NO_VECTORS, no_metadata
from molquery.readers.profile_table import profiles_from_table
from molquery.readers.slide_table import slides_from_table
from molquery.readers.sources import Source

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

    return Reader(reader.name, reader.sniff, read, reader.inputs)


SLIDE_READERS: tuple[Reader[Slides], ...] = (
    trident.READER,
    patches.READER,
    torch_file.READER,
    stamp.READER,
    pickled.READER,
    wsidata.READER,
    h5ad.SLIDES,
    numpy_arrays.NPY_READER,
    numpy_arrays.NPZ_READER,
    *(_through_table(reader, slides_from_table) for reader in TABLE_READERS),
)

PROFILE_READERS: tuple[Reader[Profiles], ...] = (
    h5ad.PROFILES,
    *(_through_table(reader, profiles_from_table) for reader in TABLE_READERS),
)

#: Nothing said by the user.
DEFAULTS = Options()


def find_slides(paths: Sequence[Path], options: Options = DEFAULTS) -> list[Source]:
    """The files to read slides from: see `sources.py` for what a path may be.

    Raises:
        InputError: there is nothing at a path.
        FileFormatError: none of the files is of a format with slides.
        MismatchError: a directory has folders of several encoders, and none is chosen.
    """
    found = sources.find(paths, options)
    if any(source.named or _readable(source.path) for source in found):
        return found
    names = some([source.path.name for source in found])
    folder = paths[0] if len(paths) == 1 else f"the {len(paths)} paths given"
    raise FileFormatError(
        f"no files of slide vectors in {folder}",
        found=names or "nothing",
        hint="formats read: " + ", ".join(reader.name for reader in SLIDE_READERS),
    )


def read_source(source: Source, options: Options = DEFAULTS) -> Slides:
    """The slides of one file.

    A file that nobody named and that no reader recognises gives no slides, and `skipped` says what
    it looks like.

    Raises:
        FileFormatError: the file is of no known format, or damaged.
        ColumnError: a column is missing, ambiguous or of the wrong type.
    """
    path = source.path
    if source.named:
        return choose(SLIDE_READERS, path, "slide vectors").read(path, options)
    head = head_of(path)
    for reader in SLIDE_READERS:
        if reader.sniff(path, head):
            return reader.read(path, options)
    skipped = {f"no slide vectors: {describe(path, head)}": (path.name,)}
    return Slides((), NO_VECTORS, None, no_metadata(0), skipped, str(path))


def read_slides(path: Path, options: Options = DEFAULTS) -> Iterator[Slides]:
    """Slides, one item per file; a directory gives those of its files, sorted by name.

    A damaged file stops the reading.

    Raises:
        InputError: there is nothing at `path`.
        FileFormatError: a file is of no known format, or damaged.
        ColumnError: a column is missing, ambiguous or of the wrong type.
    """
    return (read_source(source, options) for source in find_slides([path], options))


def read_profiles(path: Path, options: Options = DEFAULTS) -> Profiles:
    """The expression profiles of a file.

    Raises:
        InputError: there is no file at `path`.
        FileFormatError: the file is of no known format or damaged, or it cannot be told which
            axis holds the genes.
        ColumnError: a column is missing or of the wrong type.
    """
    return choose(PROFILE_READERS, path, "expression profiles").read(path, options)


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


def _readable(path: Path) -> bool:
    head = head_of(path)
    return any(reader.sniff(path, head) for reader in SLIDE_READERS)
