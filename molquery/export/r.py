"""An R script that makes a data frame: `source("strata.R")`, and `molquery_table` is there.

Strata are ordered factors, other text is character, missing values are NA. The provenance is the
attribute `provenance`, JSON text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from molquery.errors import ColumnError
from molquery.export.document import plain, to_json
from molquery.export.record import Format, batches

#: What the data frame is called.
NAME = "molquery_table"
#: Above this R takes minutes to parse the script.
MOST_ROWS = 200_000
_RESERVED = frozenset({
    "if", "else", "repeat", "while", "function", "for", "next", "break", "in", "TRUE", "FALSE",
    "NULL", "Inf", "NaN", "NA", "NA_integer_", "NA_real_", "NA_character_", "NA_complex_",
})  # fmt: skip
_PER_LINE = 8
_INTEGER = 2**31 - 1


def names(columns: Sequence[str]) -> list[str]:
    """Names that R takes without quotes, each once, as its own `make.names` would make them.

    Example:
        >>> names(["slide_id", "2nd set", "T-cell", "T.cell", "if"])
        ['slide_id', 'X2nd.set', 'T.cell', 'T.cell.1', 'if.']
    """
    taken: dict[str, int] = {}
    out = []
    for column in columns:
        name = re.sub(r"[^A-Za-z0-9._]", ".", column)
        if not re.match(r"[A-Za-z]|\\.(?![0-9])", name):
            name = f"X{name}"
        name = f"{name}." if name in _RESERVED else name
        base = name
        while name in taken:
            taken[base] += 1
            name = f"{base}.{taken[base]}"
        taken[name] = 0
        out.append(name)
    return out


def script(table: pa.Table, provenance: Mapping[str, Any]) -> Iterator[str]:
    """The script, in pieces.

    Raises:
        ColumnError: there are too many rows, or a text holds a NUL character.
    """
    if table.num_rows > MOST_ROWS:
        raise ColumnError(
            f"{table.num_rows} rows are too many for an R script", found=f"{MOST_ROWS} at most",
            hint="write CSV or Parquet",
        )  # fmt: skip
    safe = names(table.column_names)
    yield "# Written by molquery; source() it. H&E-predicted, for research use only.\n"
    yield f"{NAME} <- local({{\n"
    columns: list[list[Any]] = [[] for _ in safe]
    for batch in batches(table):
        for column, values in zip(columns, batch, strict=True):
            column += values
    for i, (field, values) in enumerate(zip(table.schema, columns, strict=True)):
        yield f"  v{i} <- {_vector(field.type, values, table[field.name])}\n"
    pairs = ", ".join(f"{column} = v{i}" for i, column in enumerate(safe))
    yield f"  d <- data.frame({pairs}, check.names = FALSE, stringsAsFactors = FALSE)\n"
    changed = [(s, c) for s, c in zip(safe, table.column_names, strict=True) if s != c]
    if changed:
        pairs = ", ".join(f"{s} = {_text(c)}" for s, c in changed)
        yield f'  attr(d, "names_before") <- c({pairs})\n'
    yield f'  attr(d, "provenance") <- {_text(to_json(provenance))}\n  d\n}})\n'


def write(table: pa.Table, provenance: Mapping[str, Any], path: Path) -> None:
    """Write the script to `path`."""
    with path.open("w", encoding="ascii", newline="\n") as stream:
        stream.writelines(script(table, provenance))


def _vector(kind: pa.DataType, values: Sequence[Any], column: pa.ChunkedArray) -> str:
    types = pa.types
    if types.is_dictionary(kind):
        levels = column.combine_chunks().dictionary.to_pylist() if len(column) else []
        order = "TRUE" if kind.ordered else "FALSE"
        body = _joined([_or_na(v, _text, "NA") for v in values])
        return f"factor({body}, levels = {_joined([_text(v) for v in levels])}, ordered = {order})"
    if types.is_boolean(kind):
        texts = [_or_na(v, lambda b: "TRUE" if b else "FALSE", "NA") for v in values]
        return _joined(texts, "logical(0)")
    if types.is_integer(kind):
        small = all(v is None or abs(v) <= _INTEGER for v in values)
        ending, missing = ("L", "NA_integer_") if small else ("", "NA_real_")
        texts = [_or_na(v, lambda n: f"{n}{ending}", missing) for v in values]
        return _joined(texts, "integer(0)")
    if types.is_floating(kind):
        return _joined([_or_na(v, _number, "NA_real_") for v in values], "numeric(0)")
    texts = [_or_na(v, lambda t: _text(_as_text(t)), "NA_character_") for v in values]
    return _joined(texts, "character(0)")


def _joined(texts: Sequence[str], empty: str = "character(0)") -> str:
    if not texts:
        return empty
    lines = [", ".join(texts[i : i + _PER_LINE]) for i in range(0, len(texts), _PER_LINE)]
    return "c(" + ",\n    ".join(lines) + ")"


def _or_na(value: Any, write_: Any, missing: str) -> str:
    return missing if value is None else str(write_(value))


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else "Inf" if value > 0 else "-Inf"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def _text(value: str) -> str:
    """A string literal of R, in ASCII so that it reads the same under any locale."""
    if "\0" in value:
        raise ColumnError("R has no text with a NUL character", found=repr(value[:40]))
    out = []
    for c in value:
        if c in '"\\':
            out.append(f"\\{c}")
        elif " " <= c <= "~":
            out.append(c)
        else:
            out.append(f"\\u{{{ord(c):x}}}" if ord(c) < 65536 else f"\\U{{{ord(c):x}}}")
    return '"' + "".join(out) + '"'


R = Format("r", (".r",), write)
