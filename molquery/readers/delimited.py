"""CSV and TSV files, plain or gzip, as Arrow tables.

The delimiter (tab, comma, semicolon), the decimal mark and row names without a header are found by
looking at the first lines. Lines before the header that begin with `#` are skipped. Columns of
identifiers stay text, so that 007 is not 7.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from molquery.errors import FileFormatError, some
from molquery.readers.base import Input, Options, Reader
from molquery.readers.columns import INDEX, holds_names, is_metadata
from molquery.readers.detect import BOM, GZIP, foreign_text, is_text, plain_head, read_head
from molquery.readers.guard import reading

DELIMITERS = "\t,;"

#: Data lines that are looked at beside the header.
LOOK = 8

#: Bytes parsed at a time. A block becomes one chunk in each column, so the 1 MB that is Arrow's
#: default makes 20,000 columns eight times as slow; a block must also hold the longest line.
BLOCK = 16 << 20

#: Up to this many columns a table is metadata rather than a matrix, and can be parsed with care:
#: line breaks in quotes, and a second look at integers for leading zeros.
NARROW = 100

#: From this many columns on a table is a matrix, parsed as float32 where decimals are seen: half
#: the memory, and nothing is inferred.
WIDE = 500

#: Missing values: Arrow's own list, and what clinical tables of the GDC and of TCGA hold.
NULLS = [*pa_csv.ConvertOptions().null_values, "'--", "[Not Available]"]

# The csv module's own limit, 128 KiB a field, is met by no cell; a stray quote may well reach it.
csv.field_size_limit(1 << 30)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written: where its data begin, its delimiter, decimal mark and columns."""

    skip: int
    delimiter: str
    decimal: str
    names: tuple[str, ...]
    longest: int
    decimals: frozenset[int] = frozenset()


def sniff(_: Path, head: bytes) -> bool:
    """True for text whose header line has a delimiter, and that is no other known format."""
    text = plain_head(head)
    if text is None or not text.strip() or not is_text(text) or foreign_text(text):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    header = next((line for line in lines if not line.startswith(b"#")), b"")
    return any(mark.encode() in header for mark in DELIMITERS)


def load(path: Path, options: Options) -> pa.Table:
    """Every column of the file, types inferred; columns of identifiers are text.

    Raises:
        FileFormatError: the file is truncated, its lines have unequal numbers of fields, it has no
            header or no rows, or it is not UTF-8.
    """
    compressed = read_head(path).startswith(GZIP)
    dialect = look(path, compressed)
    named = {options.id, options.gene_column} - {None}
    text = {
        i
        for i, name in enumerate(dialect.names)
        if name in named or holds_names(name, first=i == 0) or (i == 0 and not name)
    }
    types = {str(i): pa.string() for i in text}
    values = {str(i): pa.float32() for i in dialect.decimals - text}
    try:
        table = _parse(path, compressed, dialect, {**types, **values})
    except FileFormatError:
        if not values:
            raise
        # Text further down makes a column text; which columns are, Arrow finds out.
        table = _parse(path, compressed, dialect, types)
    if len(dialect.names) <= NARROW:
        table = _keep_leading_zeros(table, path, compressed, dialect)
    return _named(table, dialect.names, path)


def look(path: Path, compressed: bool) -> Dialect:
    """How the file is written, from its first lines.

    Raises:
        FileFormatError: it has no header, or nothing under it.
    """
    skip = 0
    lines: list[str] = []
    with (
        reading(path, "delimited text"),
        gzip.open(path) if compressed else path.open("rb") as stream,
    ):
        for raw in stream:
            line = raw.removeprefix(BOM) if skip == 0 else raw
            if not lines:
                skip += 1
                if line.startswith(b"#") or not line.strip():
                    continue
            if line.strip():
                lines.append(line.decode("utf-8").rstrip("\r\n"))
            if len(lines) > LOOK:
                break
    if len(lines) < 2:
        raise FileFormatError(
            f"{path} has no rows", found="a header line only" if lines else "comments only"
        )
    with reading(path, "delimited text"):
        delimiter, rows = _delimiter(lines)
    header, data = rows[0], rows[1:]
    if all(len(row) == len(header) + 1 for row in data):
        # R's write.table leaves out the header of the row names.
        header = ["", *header]
    _refuse_without_header(header, path)
    fields = [field for row in data for field in row[:500]]
    comma = delimiter != "," and any(re.fullmatch(r"-?\d+,\d+", field) for field in fields)
    point = any(re.fullmatch(r"-?\d*\.\d+", field) for field in fields)
    names = tuple(name.strip() for name in header)
    longest = max(len(line) for line in lines)
    decimal = "," if comma and not point else "."
    return Dialect(skip, delimiter, decimal, names, longest, _decimals(data, names))


def _decimals(data: Sequence[Sequence[str]], names: Sequence[str]) -> frozenset[int]:
    """Columns of a wide matrix that hold decimals in the first lines, and no facts of samples."""
    if len(names) < WIDE:
        return frozenset()
    return frozenset(
        i
        for i in range(min(len(names), *(len(row) for row in data)))
        if any(re.fullmatch(r"-?\d*\.\d+(?:[eE][+-]?\d+)?", row[i]) for row in data)
        and not is_metadata(names[i])
    )


def _delimiter(lines: Sequence[str]) -> tuple[str, list[list[str]]]:
    """The delimiter that splits every line alike into the most fields, and the split lines."""
    best: tuple[tuple[bool, int], str, list[list[str]]] | None = None
    for mark in DELIMITERS:
        rows = list(csv.reader(lines, delimiter=mark))
        widths = {len(row) for row in rows[1:]}
        width = len(rows[0])
        alike = len(widths) == 1 and widths <= {width, width + 1} and max(widths) > 1
        if best is None or (alike, width) > best[0]:
            best = ((alike, width), mark, rows)
    assert best is not None
    return best[1], best[2]


def _refuse_without_header(header: Sequence[str], path: Path) -> None:
    """Raises where the first line holds data: many numbers that do not number the columns."""
    rest = header[1:]
    numbers = [name for name in rest if re.fullmatch(r"\s*-?\d+(\.\d+)?([eE][+-]?\d+)?\s*", name)]
    counting = len(set(numbers)) == len(numbers) and all(n.strip().isdecimal() for n in numbers)
    if len(numbers) > len(rest) / 2 and not counting:
        raise FileFormatError(
            f"{path} has no header line",
            found=f"its first line holds {some(header)}",
            hint="add a line of column names",
        )


def _parse(
    path: Path,
    compressed: bool,
    dialect: Dialect,
    types: Mapping[str, pa.DataType],
    only: Sequence[str] | None = None,
) -> pa.Table:
    """The data lines; columns are called by position, since their own names may repeat."""
    positions = [str(i) for i in range(len(dialect.names))]
    with (
        reading(path, "delimited text"),
        pa.input_stream(str(path), compression="gzip" if compressed else None) as stream,
    ):
        return pa_csv.read_csv(
            stream,
            read_options=pa_csv.ReadOptions(
                column_names=positions,
                skip_rows=dialect.skip,
                block_size=max(BLOCK, 8 * dialect.longest),
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=dialect.delimiter, newlines_in_values=len(positions) <= NARROW
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                strings_can_be_null=True,
                null_values=NULLS,
                decimal_point=dialect.decimal,
                include_columns=list(only) if only is not None else None,
            ),
        )


def _keep_leading_zeros(
    table: pa.Table, path: Path, compressed: bool, dialect: Dialect
) -> pa.Table:
    """The table with integer columns as text where some value begins with a needless zero."""
    integers = [f.name for f in table.schema if pa.types.is_integer(f.type)]
    if not integers:
        return table
    texts = _parse(path, compressed, dialect, dict.fromkeys(integers, pa.string()), integers)
    for name in integers:
        column = texts.column(name)
        if pc.any(pc.match_substring_regex(column, r"^\s*0\d")).as_py():
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _named(table: pa.Table, names: Sequence[str], path: Path) -> pa.Table:
    """The table under its own column names."""
    binary = [n for n, t in zip(names, table.schema.types, strict=True) if pa.types.is_binary(t)]
    if binary:
        raise FileFormatError(
            f"{path} is not UTF-8 text",
            found=f"other bytes in column {some(binary)}",
            hint="save it as UTF-8",
        )
    keep, given = [], []
    for i, name in enumerate(names):
        # Lines that end in a delimiter make a last column of nothing.
        if not name and i > 0 and pa.types.is_null(table.schema.types[i]):
            continue
        keep.append(i)
        given.append(name or (INDEX if i == 0 and INDEX not in names else f"column_{i + 1}"))
    return table.select(keep).rename_columns(given)


READER = Reader(
    "CSV/TSV (plain or gzip)",
    sniff,
    load,
    (
        Input(
            "CSV, TSV",
            "`.csv`, `.tsv`, also gzip: ids, and a numeric column per dimension",
            "slides.csv --id slide_id --encoder titan",
        ),
    ),
)
