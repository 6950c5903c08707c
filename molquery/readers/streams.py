"""Large files of slides, read a batch of rows at a time.

Parquet, Arrow and `.npy` files can be: what other formats hold is read whole. A batch gives what
the file would, were it cut in pieces; messages that count rows count those of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molquery.readers import arrow, numpy_arrays, parquet
from molquery.readers.base import Options, Slides
from molquery.readers.detect import checked, choose
from molquery.readers.guard import reading
from molquery.readers.matrix import slides_from_matrix
from molquery.readers.registry import SLIDE_READERS
from molquery.readers.slide_table import slides_from_table

#: Bytes from which on a file is read in batches, and rows of a batch.
LARGE = 64 << 20
ROWS = 16_384

_Read = Callable[[Path], tuple[int, Iterator[pa.Table]]]


@dataclass(frozen=True)
class Stream:
    """The slides of a large file to come, and how many there are."""

    total: int
    parts: Iterator[Slides]


def stream(path: Path, options: Options) -> Stream | None:
    """The slides of a file in batches; None where it is to be read whole.

    Raises:
        FileFormatError: the file is of no known format, or damaged.
    """
    if not path.is_file() or path.stat().st_size < LARGE:
        return None
    reader = choose(SLIDE_READERS, path, "slide vectors")
    if reader.name == parquet.READER.name:
        return _tables(path, options, _parquet)
    if reader.name == arrow.READER.name:
        with path.open("rb") as file:
            if file.read(len(arrow.FILE)) == arrow.FILE:
                return _tables(path, options, _arrow)
    if reader is numpy_arrays.NPY_READER:
        return _matrix(path, options)
    return None


def _tables(path: Path, options: Options, read: _Read) -> Stream:
    def parts() -> Iterator[Slides]:
        with reading(path, "a table"):
            _, tables = read(path)
            for table in tables:
                yield slides_from_table(checked(table), path, options)

    with reading(path, "a table"):
        total, _ = read(path)
    return Stream(total, parts())


def _parquet(path: Path) -> tuple[int, Iterator[pa.Table]]:
    # Without buffer_size a whole column of a row group is read at once.
    file = pq.ParquetFile(path, buffer_size=1 << 22, pre_buffer=False)
    batches = file.iter_batches(batch_size=ROWS, use_threads=False)
    metadata = file.schema_arrow.metadata
    return file.metadata.num_rows, (
        pa.Table.from_batches([batch]).replace_schema_metadata(metadata) for batch in batches
    )


def _arrow(path: Path) -> tuple[int, Iterator[pa.Table]]:
    # Through a map the rows can be counted without being read; but what is read through one stays
    # in memory for as long as nothing else needs the room.
    mapped = pa.ipc.open_file(pa.memory_map(str(path)))
    total = sum(mapped.get_batch(i).num_rows for i in range(mapped.num_record_batches))

    def tables() -> Iterator[pa.Table]:
        file = pa.ipc.open_file(pa.OSFile(str(path)))
        for i in range(file.num_record_batches):
            batch = file.get_batch(i)
            for start in range(0, len(batch), ROWS):
                yield pa.Table.from_batches([batch.slice(start, ROWS)])

    return total, tables()


def _matrix(path: Path, options: Options) -> Stream | None:
    beside = numpy_arrays.id_list(path)
    with reading(path, "a NumPy array"):
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    if beside is None or values.ndim != 2 or not values.flags.c_contiguous:
        return None
    ids = numpy_arrays.read_ids(beside, len(values), options)
    if len(ids) != len(values):
        return None  # read whole, which says what is wrong

    (n, dim), dtype, offset = values.shape, values.dtype, values.offset
    del values

    def parts() -> Iterator[Slides]:
        with path.open("rb") as file:
            file.seek(offset)
            for start in range(0, n, ROWS):
                some = ids[start : start + ROWS]
                rows = np.fromfile(file, dtype, len(some) * dim).reshape(len(some), dim)
                yield slides_from_matrix(path, some, rows, encoder=None)

    return Stream(n, parts())
