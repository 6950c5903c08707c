"""The columns of a delimited file of known layout, where nothing is left to be inferred.

Shared by the formats whose header names every column (GDC, salmon, RSEM, GCT). Files of unknown
layout are read in `delimited.py`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from molquery.errors import ColumnError, FileFormatError, some
from molquery.readers.base import Profiles
from molquery.readers.detect import BOM, GZIP, plain_head, read_head
from molquery.readers.guard import reading

NULLS = ["", "NA", "na", "NaN", "nan", "N/A", "n/a", "null", "NULL", "None", "#N/A"]


def first_line(head: bytes) -> str:
    """The first line of a text file, lower case, without byte-order mark; '' if none."""
    text = plain_head(head)
    if text is None:
        return ""
    line = text.removeprefix(BOM).split(b"\n", 1)[0]
    return line.decode("utf-8", "replace").rstrip("\r").lower()


def lines(path: Path, what: str, limit: int) -> list[list[str]]:
    """The tab-separated fields of the first lines.

    Raises:
        FileFormatError: the file is damaged, or no UTF-8 text.
    """

    def read() -> Iterator[list[str]]:
        compressed = read_head(path).startswith(GZIP)
        with gzip.open(path) if compressed else path.open("rb") as stream:
            for raw in islice(stream, limit):
                yield raw.removeprefix(BOM).decode("utf-8").rstrip("\r\n").split("\t")

    with reading(path, what):
        return list(read())


def columns(
    path: Path, what: str, skip: int, names: list[str], types: Mapping[str, pa.DataType]
) -> pa.Table:
    """The columns in `types` of the lines after the first `skip`.

    Raises:
        ColumnError: a column is not there, or there twice.
        FileFormatError: the file is damaged, or a value is of another type.
    """
    for name in types:
        if names.count(name) != 1:
            raise ColumnError(
                f"{what} needs one column {name!r}; {path} has {names.count(name)}",
                found=some(names, 12),
            )
    positions = [str(i) for i in range(len(names))]
    wanted = {str(names.index(name)): kind for name, kind in types.items()}
    compressed = read_head(path).startswith(GZIP)
    with (
        reading(path, what),
        pa.input_stream(str(path), compression="gzip" if compressed else None) as stream,
    ):
        table = pa_csv.read_csv(
            stream,
            read_options=pa_csv.ReadOptions(
                column_names=positions, skip_rows=skip, block_size=max(16 << 20, 256 * len(names))
            ),
            parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=wanted,
                include_columns=list(wanted),
                null_values=NULLS,
                strings_can_be_null=False,
            ),
        )
    if not table.num_rows:
        raise FileFormatError(f"{path} has no rows", found=f"the header of {what} only")
    return table.rename_columns(list(types))


def one_sample(
    path: Path,
    what: str,
    sample: tuple[str, Mapping[str, str]],
    table: pa.Table,
    notes: tuple[str, ...],
    scale: str,
) -> Profiles:
    """The profile of a file with one sample; `table` holds gene names and values, in this order."""
    from molquery.readers.columns import as_float32
    from molquery.readers.profile_table import finish

    name, facts = sample
    genes = tuple((v or "").strip() for v in table.column(0).to_pylist())
    values = as_float32(table.column(1))[None, :]
    if facts:
        metadata = pa.table({k: pa.array([v], pa.string()) for k, v in facts.items()})
    else:
        metadata = pa.table({"id": pa.array([name])}).select([])
    return finish((name,), genes, values, metadata, notes, path, scale=scale)
