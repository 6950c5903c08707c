"""Text columns of large tables: read from the map for the rows that are wanted, and no others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from molquery.arrow import numbers
from molquery.vectors import Bools, Ints, Strings, as_text

_LONG = (1 << 31) - 1  # bytes that offsets of 32 bits reach
_COMPARED = 10_000  # texts that a mistyped one is compared with


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows by what they belong to, such as their cohort.

    Attributes:
        names: (n_groups,) distinct and sorted; the empty string is that of rows without a group.
        code: (n,) integers, the position of each row's group among the names.
    """

    names: Strings
    code: Any

    @classmethod
    def of(cls, values: Strings) -> Groups:
        """From the group of every row (n,)."""
        names, code = np.unique(values, return_inverse=True)
        return cls(names, code)

    def counts(self, rows: Bools) -> Ints:
        """(n_groups,) how many rows of a mask (n,) each has."""
        return np.bincount(self.code[rows], minlength=len(self.names))

    def within(self, rows: Bools) -> Strings:
        """The groups of which a row is in a mask (n,), sorted."""
        return self.names[self.counts(rows) > 0]


class Texts:
    """A column (n,) of text in an Arrow table; missing values are the empty string."""

    def __init__(self, column: pa.ChunkedArray | pa.Array) -> None:
        self._column = _whole(column)

    def __len__(self) -> int:
        return len(self._column)

    @cached_property
    def all(self) -> Strings:
        """(n,) every one of them."""
        return as_text(self._column)

    @cached_property
    def groups(self) -> Groups:
        """The rows by their text."""
        column = self._column
        if _is_text(column.type):
            column = column.fill_null("").dictionary_encode()
        if not pa.types.is_dictionary(column.type):
            return Groups.of(self.all)
        names, code = as_text(column.dictionary), numbers(column.indices)
        if (names[1:] > names[:-1]).all():
            return Groups(names, code)
        order = np.argsort(names)
        place = np.empty(len(order), code.dtype)
        place[order] = np.arange(len(order))
        return Groups(names[order], place[code])

    def at(self, rows: Ints) -> Strings:
        """(n_rows,) those of some rows."""
        kind = self._column.type
        if pa.types.is_dictionary(kind):
            groups = self.groups
            return np.asarray(groups.names[groups.code[rows]])
        if "all" in self.__dict__ or not _is_text(kind) or 4 * len(rows) > len(self):
            return self.all[rows]
        return np.array([self._one(i) for i in rows.tolist()], dtype=str)

    def are_in(self, values: pa.ChunkedArray | pa.Array) -> Bools:
        """(n,) which of them are among some values."""
        from pyarrow import compute

        own = self._column
        if pa.types.is_dictionary(own.type):
            own = own.dictionary_decode()
        return np.asarray(compute.is_in(own, _whole(values).cast(own.type)))

    def distinct(self) -> pa.Array:
        """The different ones, in any order, without the empty one."""
        from pyarrow import compute

        found = compute.unique(self._column)
        if pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        return found.filter(compute.not_equal(found, ""))

    @cached_property
    def _buffers(self) -> tuple[Any, Any, Any]:
        """Where each text ends, the letters, and which values are there; None: all."""
        _, ends, letters = self._column.buffers()
        known = np.asarray(self._column.is_valid()) if self._column.null_count else None
        wide = pa.types.is_large_string(self._column.type)
        at = np.frombuffer(ends, np.int64 if wide else np.int32)[self._column.offset :]
        return at, memoryview(letters or b""), known

    def _one(self, i: int) -> str:
        at, letters, known = self._buffers
        return bytes(letters[at[i] : at[i + 1]]).decode() if known is None or known[i] else ""

    def place(self, text: str) -> int:
        """Where a text would stand in a column that is sorted: the first that is not below it."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if str(self.at(np.array([middle]))[0]) < text:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, text: str) -> int | None:
        """The row of a text in a column that is sorted and has none twice, if it is there."""
        row = self.place(text)
        there = row < len(self) and str(self.at(np.array([row]))[0]) == text
        return row if there else None

    def near(self, text: str, count: int, alike: float) -> list[str]:
        """What a mistyped text may have been, in a column that is sorted: as `difflib` has it."""
        import difflib

        rows = np.arange(len(self))
        if len(rows) > _COMPARED:  # those that begin alike: comparing with all takes minutes
            first = max(0, self.place(text) - _COMPARED // 2)
            rows = rows[first : first + _COMPARED]
        return difflib.get_close_matches(text, self.at(rows).tolist(), n=count, cutoff=alike)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.nbytes > _LONG and pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    return column.combine_chunks()


def coded(table: pa.Table, but: str) -> pa.Table:
    """The table with text of few distinct values as sorted codes, so that reading it costs nothing.

    Missing values become the empty string there, which is what they are read as. `but` names a
    column that stays as it is.
    """
    for i, field in enumerate(table.schema):
        if field.name == but or not pa.types.is_string(field.type):
            continue
        groups = Texts(table[field.name]).groups
        if len(groups.names) * 4 > len(table):
            continue
        names = pa.array(groups.names.tolist(), pa.string())
        codes = pa.DictionaryArray.from_arrays(pa.array(groups.code.astype(np.int32)), names)
        table = table.set_column(i, pa.field(field.name, codes.type), codes)
    return table.combine_chunks()
