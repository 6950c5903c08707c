"""The mean of a slide's patch vectors, read in blocks: never a whole file in memory.

Sums are kept in float64, so that the mean does not depend on how many patches a slide has.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from molquery.errors import FileFormatError
from molquery.readers.base import Slides
from molquery.readers.matrix import one_slide
from molquery.vectors import Float

#: Enough to hide the cost of a call, and small beside a processor's cache and any memory.
BLOCK = 4 << 20

N_TILES = "n_tiles"
POOLING = "pooling"
MEAN = "mean"


def mean_of_dataset(dataset: Any) -> tuple[Float, int]:
    """The mean (d,) of an HDF5 dataset's rows and their number; (1, n, d) counts as (n, d).

    Without rows, the mean is empty.
    """
    lead = (0,) * (len(dataset.shape) - 2)
    n, dim = dataset.shape[-2:]
    rows = _rows(dim * dataset.dtype.itemsize)
    buffer = np.empty((min(rows, n), dim), dataset.dtype)
    total = np.zeros(dim)
    for start in range(0, n, rows):
        block = buffer[: min(rows, n - start)]
        dataset.read_direct(block, (*lead, np.s_[start : start + len(block)]))
        total += _sum(block)
    return (total / n if n else total[:0]), int(n)


def mean_of_array(
    array: Any, *, convert: Callable[[Any], Any] = lambda block: block, chunk: int = 1
) -> tuple[Float, int]:
    """The same for an array (n, d), perhaps memory-mapped; `convert` makes a block numbers.

    Blocks are whole multiples of `chunk` rows, so that no chunk of a file is read twice.
    """
    n, dim = array.shape
    rows = -(-_rows(dim * array.dtype.itemsize) // chunk) * chunk
    total = np.zeros(dim)
    for start in range(0, n, rows):
        total += _sum(convert(array[start : start + rows]))
    return (total / n if n else total[:0]), int(n)


def _rows(row_bytes: int) -> int:
    return max(1, BLOCK // max(1, row_bytes))


def _sum(block: Any) -> Float:
    if block.dtype == np.float16:  # numpy adds halves to doubles one by one
        block = block.astype(np.float32)
    return np.asarray(block.sum(axis=0, dtype=np.float64))


def pooled(path: Path, mean: Float, n: int, *, encoder: str | None, **metadata: Any) -> Slides:
    """The slide of pooled patches; one without patches is skipped.

    Raises:
        FileFormatError: the mean is beyond what float32 holds.
    """
    if mean.size and np.abs(mean).max() > np.finfo(np.float32).max and not np.isinf(mean).any():
        raise FileFormatError(f"the features of {path} are too large for float32")
    told = {N_TILES: n, POOLING: MEAN, **metadata}
    return one_slide(path, mean, encoder=encoder, metadata=told)
