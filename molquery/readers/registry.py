"""The formats that molquery reads, and the functions that read them.

A new tabular format is one module with a `Reader` that gives an Arrow table, and one line in
`TABLE_READERS` of `tables.py`: it then serves slides, profiles and metadata. Any other format is
one module and one line in `SLIDE_READERS` or `PROFILE_READERS`. The first reader that recognises a
file reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from molquery.errors import FileFormatError, some
from molquery.readers import (
    cbioportal,
    exported,
    gct,
    gdc_star,
    h5ad,
    numpy_arrays,
    patches,
    pickled,
    rsem,
    salmon,
    sources,
    stamp,
    torch_file,
    trident,
    wsidata,
)
from molquery.readers.apart import apart
from molquery.readers.base import Options, Profiles, Reader, Slides, T
from molquery.readers.detect import choose, describe, head_of, read_head
from molquery.readers.matrix import NO_VECTORS, no_metadata
from molquery.readers.profile_table import profiles_from_table
from molquery.readers.slide_table import slides_from_table
from molquery.readers.sources import Source
from molquery.readers.tables import TABLE_READERS


def _through_table(
    reader: Reader[pa.Table], convert: Callable[[pa.Table, Path, Options], T]
) -> Reader[T]:
    def read(path: Path, options: Options) -> T:
        return convert(reader.read(path, options), path, options)

    return Reader(reader.name, reader.sniff, read, reader.inputs)


SLIDE_READERS: tuple[Reader[Slides], ...] = (
    exported.SLIDES_READER,
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
    return _read(source.path, source.named, options)


@apart
def _read(path: Path, named: bool, options: Options) -> Slides:
    if named:
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


@apart
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


@apart
def _readable(path: Path) -> bool:
    head = head_of(path)
    return any(reader.sniff(path, head) for reader in SLIDE_READERS)
