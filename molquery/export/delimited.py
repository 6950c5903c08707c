"""CSV and TSV, safe to open in a spreadsheet.

UTF-8, one header line, LF line ends; cells that hold the delimiter, a quote or a line break are
quoted as in RFC 4180, in TSV too. Numbers are written so that they read back as they were; truth
values are `true` and `false`; lists are JSON; a missing value is an empty cell.

A cell of text that a spreadsheet could run as a formula (it begins with `=`, `+`, `-`, `@`, a tab
or a line break, and is not a plain number) gets a single quote in front, and so does such a column
name: `=1+1` is written `'=1+1`. See https://owasp.org/www-community/attacks/CSV_Injection. Columns
of numbers are never changed. For values exactly as they are, write Parquet or JSON lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.export.document import plain
from molquery.export.record import Format, batches

#: The last four are the full-width forms, which spreadsheets in East Asian locales run as well.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def chunks(table: pa.Table, *, delimiter: str) -> Iterator[str]:
    """The header, then the rows of `table`, a batch at a time."""
    yield _lines([[name] for name in map(harmless, table.column_names)], delimiter)
    cells = [_cell(field.type) for field in table.schema]
    for columns in batches(table):
        texts = [
            ["" if value is None else cell(value) for value in column]
            for cell, column in zip(cells, columns, strict=True)
        ]
        yield _lines(texts, delimiter)


def harmless(text: str) -> str:
    """`text`, with a single quote in front when a spreadsheet could take it for a formula.

    Example:
        >>> harmless("=1+1"), harmless("-1.5"), harmless("TCGA-05-4244")
        ("'=1+1", '-1.5', 'TCGA-05-4244')
    """
    return f"'{text}" if text.startswith(FORMULA) and not NUMBER.fullmatch(text) else text


def write(table: pa.Table, provenance: Mapping[str, Any], path: Path, *, delimiter: str) -> None:
    """Write the rows of `table` to `path`; the provenance is in the sidecar."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(chunks(table, delimiter=delimiter))


def _lines(columns: list[list[str]], delimiter: str) -> str:
    special = re.compile(f'[{delimiter}"\r\n]')
    quoted = [
        ['"' + c.replace('"', '""') + '"' if special.search(c) else c for c in column]
        for column in columns
    ]
    if len(columns) == 1:
        # an empty line is skipped by most readers, and with it the row
        quoted = [[c or '""' for c in quoted[0]]]
    return "".join(delimiter.join(row) + "\n" for row in zip(*quoted, strict=True))


def _cell(kind: pa.DataType) -> Callable[[Any], str]:
    """How a value of an Arrow type is written."""
    types = pa.types
    if types.is_dictionary(kind):
        return _cell(kind.value_type)
    if types.is_boolean(kind):
        return lambda value: "true" if value else "false"
    if types.is_nested(kind):
        return lambda value: json.dumps(plain(value), ensure_ascii=False)
    if types.is_integer(kind) or types.is_floating(kind):
        return repr
    if types.is_temporal(kind):
        return lambda value: str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
    return lambda value: harmless(str(value))


TSV = Format(
    "tsv", (".tsv", ".tab", ".txt"), partial(write, delimiter="\t"), partial(chunks, delimiter="\t")
)
CSV = Format("csv", (".csv",), partial(write, delimiter=","), partial(chunks, delimiter=","))
