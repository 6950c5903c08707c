"""Arrays in files that are mapped into memory, and checked block by block before they are believed.

A file of arrays is a safetensors file (`drafts`). Beside it stands a file of sums: one xxh3-64 of
every 128 KiB. A query that reads a thousand rows of a million checks the blocks that hold them and
no others, and one that reads everything checks everything, at about the speed at which memory is
read. Nothing is checked twice by one process. An array may have sums of its rows, too, as another
array of the file: few rows here and there are checked by those, and no block has to be read.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from molquery.database.drafts import TYPES
from molquery.errors import DatabaseError
from molquery.vectors import Ints

#: Bytes under one sum: more than the 64 KiB up to which xxhash keeps other threads waiting.
BLOCK = 1 << 17
#: What the name of a file of sums ends with, and of an array with the sums of another's rows.
SUMS = ".sums"
_ROWS_OF_A_BLOCK = 8  # rows whose sums take as long as that of one block, about
_MAGIC = 8

AnyArray = npt.NDArray[Any]


def block_sums(path: Path) -> AnyArray:
    """(n_blocks,) uint64: the xxh3-64 of every 128 KiB of a file; the last block may be shorter."""
    size = path.stat().st_size
    if size == 0:
        return np.empty(0, "<u8")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return _hash(whole, np.arange(-(-size // BLOCK)))


def row_sums(rows: AnyArray) -> AnyArray:
    """(n,) uint64: the xxh3-64 of every row (n, …) of a C-contiguous array."""
    from xxhash import xxh3_64_intdigest

    return np.array([xxh3_64_intdigest(row) for row in rows], dtype="<u8")


def _hash(content: Any, blocks: Ints) -> AnyArray:
    """(n,) uint64: the sums of some blocks."""
    from xxhash import xxh3_64_intdigest

    with memoryview(content) as view:

        def some(part: Ints) -> list[int]:
            return [xxh3_64_intdigest(view[b * BLOCK : (b + 1) * BLOCK]) for b in part.tolist()]

        if len(blocks) < 256:
            return np.array(some(blocks), dtype="<u8")
        halves = np.array_split(blocks, 2)
        with ThreadPoolExecutor(len(halves)) as pool:
            return np.concatenate([np.array(s, dtype="<u8") for s in pool.map(some, halves)])


class Checked:
    """A file mapped into memory, of which blocks are checked before they are read.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, sums: bytes | None) -> None:
        """Without sums the whole file has been checked already."""
        self.path = path
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.content: AnyArray = np.frombuffer(self._map, np.uint8)
        if sums is None:
            self._good = np.ones(-(-size // BLOCK), dtype=bool)
            return
        self._sums = np.frombuffer(sums, "<u8")
        self._good = np.zeros(len(self._sums), dtype=bool)
        if len(self._sums) != -(-size // BLOCK):
            raise self.damaged(f"{size} bytes, and sums of {len(self._sums)} blocks")

    def check(self, start: int = 0, stop: int | None = None) -> None:
        """Check the blocks that hold these bytes.

        Raises:
            DatabaseError: one of them is not what was written.
        """
        stop = len(self.content) if stop is None else stop
        self.check_blocks(np.arange(start // BLOCK, -(-stop // BLOCK)))

    def check_blocks(self, blocks: Ints) -> None:
        """As `check`, of blocks by number."""
        todo = blocks[~self._good[blocks]]
        if len(todo) == 0:
            return
        differ = todo[_hash(self._map, todo) != self._sums[todo]]
        if len(differ):
            raise self.damaged(f"bytes {differ[0] * BLOCK} and on are not what was written")
        self._good[todo] = True

    def damaged(self, found: str) -> DatabaseError:
        """The error that says so, with what was found."""
        return DatabaseError(
            f"{self.path.name} is damaged", found=found, hint="molquery doctor --repair"
        )


class Arrays:
    """The arrays of a checked file, by name.

    Raises:
        DatabaseError: its header is damaged.
    """

    def __init__(self, file: Checked) -> None:
        self.file = file
        file.check(0, min(_MAGIC, len(file.content)))
        length = int.from_bytes(file.content[:_MAGIC].tobytes(), "little")
        file.check(0, min(_MAGIC + length, len(file.content)))
        try:
            header = json.loads(file.content[_MAGIC : _MAGIC + length].tobytes())
        except ValueError as error:
            raise DatabaseError(
                f"{file.path.name} is not a file of arrays", hint="molquery doctor --repair"
            ) from error
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._start = _MAGIC + length
        self._header: dict[str, Any] = header
        self._good: dict[str, AnyArray] = {}  # rows that have been checked by themselves

    def __contains__(self, name: object) -> bool:
        return name in self._header

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._header)

    def unchecked(self, name: str) -> AnyArray:
        """An array as it lies in the file, none of it checked yet: see `check_rows`."""
        told = self._header[name]
        first, last = told["data_offsets"]
        content = self.file.content[self._start + first : self._start + last]
        return content.view(TYPES[told["dtype"]]).reshape(told["shape"])

    def whole(self, name: str) -> AnyArray:
        """An array, after all of it has been checked; read-only, without a copy."""
        first, last = self._header[name]["data_offsets"]
        self.file.check(self._start + first, self._start + last)
        return self.unchecked(name)

    def check_rows(self, name: str, rows: Ints) -> None:
        """Check some rows of an array: the blocks that hold them, or each by itself.

        Raises:
            DatabaseError: one of them is not what was written.
        """
        told = self._header[name]
        first, last = told["data_offsets"]
        if len(rows) == 0:
            return
        width = (last - first) // told["shape"][0]
        low = (self._start + first + rows * width) // BLOCK
        high = (self._start + first + (rows + 1) * width - 1) // BLOCK
        span = int((high - low).max())
        blocks = low[:, None] + np.arange(span + 1)
        needed = np.zeros(len(self.file._good), dtype=bool)
        needed[np.minimum(blocks, high[:, None])] = True
        todo = np.flatnonzero(needed & ~self.file._good)
        if name + SUMS in self and len(rows) < _ROWS_OF_A_BLOCK * len(todo):
            self._check_each(name, rows)
        else:
            self.file.check_blocks(todo)

    def _check_each(self, name: str, rows: Ints) -> None:
        """Check rows of an array by the sums of its rows."""
        values = self.unchecked(name)
        good = self._good.setdefault(name, np.zeros(len(values), dtype=bool))
        todo = rows[~good[rows]]
        if len(todo) == 0:
            return
        differ = todo[row_sums(values[todo]) != self.rows(name + SUMS, todo)]
        if len(differ):
            raise self.file.damaged(f"row {differ[0]} of {name} is not what was written")
        good[todo] = True

    def check_span(self, name: str, start: int, stop: int) -> None:
        """As `check_rows`, of rows that follow one another."""
        told = self._header[name]
        first, last = (self._start + offset for offset in told["data_offsets"])
        width = (last - first) // max(1, told["shape"][0])
        self.file.check(first + start * width, first + stop * width)

    def rows(self, name: str, rows: Ints) -> AnyArray:
        """A copy of some rows of an array, checked."""
        self.check_rows(name, rows)
        return self.unchecked(name)[rows]


class Rows:
    """An array in a checked file, of which rows are checked as they are taken."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._arrays, self._name = arrays, name
        self._values = arrays.unchecked(name)
        self.shape, self.dtype, self.nbytes = (
            self._values.shape, self._values.dtype, self._values.nbytes,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> AnyArray:
        """Some rows: by number, as a slice, or as positions (n,).

        Raises:
            DatabaseError: they are not what was written.
        """
        self.check(rows)
        return np.asarray(self._values[rows])

    def check(self, rows: Any) -> None:
        """Check some rows without taking them; raises as `[]` does."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            self._arrays.check_span(self._name, start, stop)
        else:
            self._arrays.check_rows(self._name, np.atleast_1d(rows))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        """All of it, checked."""
        return np.array(self[:], dtype=dtype, copy=copy)


def arrow_columns(file: Checked, columns: Sequence[str]) -> pa.Table:
    """Columns of an Arrow file, mapped, after all has been checked but what holds others alone.

    Raises:
        DatabaseError: it is damaged.
    """
    content = pa.py_buffer(file.content)
    try:
        table = pa.ipc.open_file(content).read_all()
    except (pa.ArrowException, OSError) as error:
        raise file.damaged(str(error)) from error
    needed = np.ones(-(-content.size // BLOCK), dtype=bool)
    for name in set(table.schema.names) - set(columns):
        for buffer in (b for chunk in table[name].chunks for b in chunk.buffers() if b):
            start = buffer.address - content.address
            needed[-(-start // BLOCK) : (start + buffer.size) // BLOCK] = False
    file.check_blocks(np.flatnonzero(needed))
    return table.select(columns)
