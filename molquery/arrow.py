"""Arrow arrays to and from numpy by their buffers.

pyarrow's own conversions import pandas where it is installed, which takes longer than a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def numbers(array: pa.Array) -> npt.NDArray[Any]:
    """An array (n,) of numbers without a copy; what stands for missing values is arbitrary."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    content = array.buffers()[1]
    if content is None:
        return np.empty(0, dtype)
    return np.frombuffer(content, dtype)[array.offset : array.offset + len(array)]


def column(values: npt.NDArray[Any] | Sequence[str | None]) -> pa.Array:
    """An array of float64, int64, bool or text. NaN and None become missing values."""
    n = len(values)
    if not isinstance(values, np.ndarray):
        texts = [(v or "").encode() for v in values]
        ends = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int32)
        known = np.array([v is not None for v in values], dtype=bool)
        buffers = [_bits(known), pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.string(), n, buffers)
    if values.dtype == bool:
        return pa.Array.from_buffers(pa.bool_(), n, [None, _bits(values, always=True)])
    kind = pa.int64() if values.dtype.kind == "i" else pa.float64()
    content = np.ascontiguousarray(values, np.int64 if values.dtype.kind == "i" else np.float64)
    known = np.ones(n, dtype=bool) if values.dtype.kind == "i" else ~np.isnan(content)
    return pa.Array.from_buffers(kind, n, [_bits(known), pa.py_buffer(content)])


def _bits(mask: npt.NDArray[np.bool_], *, always: bool = False) -> pa.Buffer | None:
    if not always and mask.all():
        return None
    return pa.py_buffer(np.packbits(mask, bitorder="little"))
