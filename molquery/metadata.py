"""Metadata columns under names and in types that a table of the database can hold.

Names lose the characters that Lance keeps for itself, and those that cannot be seen; what has no
type of its own in a filter becomes a number or text. Whatever is changed or left out is said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from molquery import schema
from molquery.errors import ColumnError, printable, some

#: Lance parses these as paths into a column, and refuses or loses the column.
_PATH_MARKS = str.maketrans({".": "_", "`": "_"})
#: Lance's own columns (`_rowid`, `_rowaddr` …) begin so; a table with one can no longer be read.
_OWN = "_row"
#: Characters of an id, patient, cohort or site: queries hold columns as wide as the widest.
LONGEST_ID = 500
#: Characters of any other text.
LONGEST_TEXT = 100_000


def storable(table: pa.Table, *, keep: Sequence[str] = ()) -> tuple[pa.Table, list[str]]:
    """The table with every column renamed, converted or left out as needed, and notes on that.

    Args:
        keep: columns that the caller takes out again, whatever they are called.

    Raises:
        ColumnError: two columns would have one name, or hold a text that `check_text` refuses.
    """
    notes: list[str] = []
    taken = [c for c in table.schema.names if schema.is_internal(c) and c not in keep]
    if taken:
        notes.append(f"columns left out, since molquery keeps these names: {some(taken)}")
        table = table.drop_columns(taken)
    names = [name if name in keep else _name(name) for name in table.schema.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ColumnError("two columns of metadata would have one name", found=some(twice))
    renamed = [f"{a} -> {b}" for a, b in zip(table.schema.names, names, strict=True) if a != b]
    if renamed:
        notes.append(f"columns renamed: {some(renamed)}")
    converted = []
    columns = []
    for name, column in zip(names, table.columns, strict=True):
        fit = _fitting(column)
        if fit.type != column.type and not pa.types.is_null(column.type):
            converted.append(f"{name} ({column.type})")
        if pa.types.is_string(fit.type) and name not in keep:
            check_text(f"column {name}", fit, LONGEST_TEXT)
        columns.append(fit)
    if converted:
        notes.append(f"columns kept as numbers or text: {some(converted)}")
    return pa.table(columns, names=names) if names else table, notes


def check_text(what: str, values: pa.Array | pa.ChunkedArray, longest: int = LONGEST_ID) -> None:
    """Refuse text that is too long, or holds a NUL, at which other programs would cut it.

    Raises:
        ColumnError: one of the values is, or does.
    """
    longer = pc.max(pc.binary_length(values)).as_py() or 0  # bytes: no fewer than characters
    if longer <= longest and not pc.any(pc.match_substring(values, "\0")).as_py():
        return
    for value in values.to_pylist():
        if value is not None and (len(value) > longest or "\0" in value):
            long = f"{len(value):,} characters, at most {longest:,}"
            raise ColumnError(
                f"{what} holds a text that is too long, or a NUL character",
                found=f"{printable(value, 60)} ({long})",
                hint="is it the right column? --id COLUMN names another one; or take it out",
            )


def _name(name: str) -> str:
    name = "".join(c if c.isprintable() else "_" for c in name.translate(_PATH_MARKS))
    return name.removeprefix("_") if name.startswith(_OWN) else name


def _fitting(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
        return column.cast(pa.float64(), safe=False)
    plain = (
        pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        or pa.types.is_string(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    )  # fmt: skip
    if plain:
        return column
    return pa.chunked_array([pa.array([_text(v) for v in column.to_pylist()], pa.string())])


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
