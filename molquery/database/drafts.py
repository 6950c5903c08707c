"""A safetensors file whose arrays are laid out first and then written piece by piece.

So its size is bounded by the disk and not by memory: a batch of rows goes into every array at once.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U64": "<u8", "U8": "|u1",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in TYPES.items()}
_ALIGN = 4096  # where the first array begins: a page, so that it can be mapped by itself
_LENGTH = 8  # bytes of the number that says how long the header is

Layout = Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]


class Draft:
    """The file while it is written; what was not put into it is zero.

    Args:
        layout: name -> dtype and shape of every array.
        metadata: what the file says of itself.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Mapping[str, str]) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._at: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        offset = 0
        # The widest numbers first, so that each lies at a multiple of its size.
        ordered = sorted(layout.items(), key=lambda item: -np.dtype(item[1][0]).itemsize)
        for name, (kind, shape) in ordered:
            dtype = np.dtype(kind).newbyteorder("<")
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            header[name] = {
                "dtype": _NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            self._at[name] = offset, dtype, shape
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-(_LENGTH + len(text)) % _ALIGN)
        self._start = _LENGTH + len(text)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.truncate(self._file, self._start + offset)
        self._write(len(text).to_bytes(_LENGTH, "little") + text, 0)

    def put(self, name: str, rows: npt.NDArray[Any], start: int = 0) -> None:
        """Write rows (n, …) of an array, from row `start` on."""
        offset, dtype, shape = self._at[name]
        width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        if rows.shape[1:] != shape[1:] or start + len(rows) > shape[0]:
            raise ValueError(f"{name}: {rows.shape} at {start} does not fit {shape}")
        content = np.ascontiguousarray(rows, dtype=dtype)
        self._write(content.reshape(-1).view(np.uint8).data, self._start + offset + start * width)

    def _write(self, content: bytes | memoryview, at: int) -> None:
        left = memoryview(content)
        while left:
            done = os.pwrite(self._file, left, at)
            left, at = left[done:], at + done

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The arrays of a file, mapped into memory, and its metadata."""
    with path.open("rb") as stream:
        whole = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    start = _LENGTH + int.from_bytes(whole[:_LENGTH].tobytes(), "little")
    header = json.loads(whole[_LENGTH:start].tobytes())
    metadata = header.pop("__metadata__")
    arrays = {}
    for name, told in header.items():
        first, last = told["data_offsets"]
        content = whole[start + first : start + last]
        arrays[name] = content.view(TYPES[told["dtype"]]).reshape(told["shape"])
    return arrays, metadata
