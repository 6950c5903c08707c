"""The tabular formats, and reading a table of metadata with them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from molquery.readers import arrow, columns, delimited, parquet
from molquery.readers.apart import apart
from molquery.readers.base import Options, Reader
from molquery.readers.detect import choose

TABLE_READERS: tuple[Reader[pa.Table], ...] = (
    parquet.READER,
    arrow.READER,
    delimited.READER,
)


@apart
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
