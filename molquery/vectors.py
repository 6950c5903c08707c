"""The only place for dtype, shape, NaN, zero-norm and unit-norm rules of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from molquery.arrow import numbers
from molquery.errors import VectorError, some

Matrix: TypeAlias = npt.NDArray[np.float32]
Float: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Strings: TypeAlias = npt.NDArray[np.str_]


def as_text(column: Any) -> Strings:
    """A table's column (n,) as text; missing values are the empty string."""
    if str(getattr(column, "type", "")).startswith("dictionary"):
        chunks = getattr(column, "chunks", [column])
        coded = [as_text(c.dictionary)[numbers(c.indices)] for c in chunks if not c.null_count]
        if coded and len(coded) == len(chunks):
            return np.concatenate(coded)
    if str(getattr(column, "type", "")) == "string":
        chunks = getattr(column, "chunks", [column])
        found = [_ascii(chunk) for chunk in chunks if len(chunk)]
        known = [part for part in found if part is not None]
        if found and len(known) == len(found):
            return known[0] if len(known) == 1 else np.concatenate(known)
    return np.array(["" if v is None else str(v) for v in column.to_pylist()], dtype=str)


def _ascii(chunk: Any) -> Strings | None:
    """An Arrow string array as text, without a Python object for each; None unless all ASCII."""
    _, ends, content = chunk.buffers()
    at = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    letters = np.frombuffer(content or b"", np.uint8)[at[0] : at[-1]]
    if letters.size and (letters.max() > 127 or letters.min() == 0):
        return None
    lengths = np.diff(at)
    if chunk.null_count:
        lengths = np.where(np.asarray(chunk.is_valid()), lengths, 0)
        if lengths.sum() != letters.size:
            return None
    width = max(1, int(lengths.max()))
    out = np.zeros((len(chunk), width), np.uint32)
    if (lengths == width).all():
        out[:] = letters.reshape(-1, width)
    else:
        out[np.arange(width) < lengths[:, None]] = letters
    return out.view(f"<U{width}")[:, 0]


def as_matrix(values: npt.ArrayLike) -> Matrix:
    """`values` as a C-contiguous (n, d) float32 array.

    Raises:
        VectorError: `values` is not two-dimensional, or has no columns.
    """
    matrix = np.ascontiguousarray(values, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise VectorError("vectors must form a table of rows x dimensions", found=str(matrix.shape))
    return matrix


def invalid_rows(matrix: Matrix, *, allow_nan: bool) -> dict[str, Bools]:
    """Masks (n,) of the rows that cannot be used, by reason; none where every row can.

    With `allow_nan` (interpretable features, where NaN means missing) a row is invalid only when
    every value is missing.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.vecdot(matrix, matrix)
    if (np.isfinite(squares) & (squares > 0)).all():  # one pass; others say which row is what
        return {}
    nan = np.isnan(matrix)
    missing = nan.all(axis=1) if allow_nan else nan.any(axis=1)
    infinite = np.isinf(matrix).any(axis=1)
    zero = ~((matrix != 0) & ~nan).any(axis=1) & ~missing
    reason = "nothing but NaN" if allow_nan else "NaN values"
    return {reason: missing, "infinite values": infinite, "all zeros": zero}


def check_rows(
    matrix: Matrix, ids: Sequence[str], *, allow_nan: bool, skip_invalid: bool, noun: str
) -> tuple[Bools, dict[str, tuple[str, ...]]]:
    """A mask (n,) of the usable rows, and the ids that are skipped by reason.

    Raises:
        VectorError: some rows are invalid and `skip_invalid` is false.
    """
    keep = np.ones(len(matrix), dtype=bool)
    skipped: dict[str, tuple[str, ...]] = {}
    for reason, mask in invalid_rows(matrix, allow_nan=allow_nan).items():
        mask = mask & keep
        if mask.any():
            skipped[reason] = tuple(ids[int(i)] for i in np.flatnonzero(mask))
            keep &= ~mask
    if skipped and not skip_invalid:
        raise VectorError(
            f"{int((~keep).sum())} of {len(ids)} {noun} vectors cannot be used",
            found="; ".join(f"{len(v)} with {k}: {some(v, 3)}" for k, v in skipped.items()),
            hint="mend the file, or add --skip-invalid to leave these out (NaN is allowed only "
            "for interpretable features: --kind features)",
        )
    return keep, skipped


def same_key(left: Strings, right: Strings) -> tuple[Ints, Ints]:
    """Positions (n,) in `left` and in `right` of every two rows with the same key.

    Ordered by the position in `left`; an empty key matches nothing.
    """
    order = np.argsort(right, kind="stable")
    low, high = (np.searchsorted(right[order], left, side=side) for side in ("left", "right"))
    count = np.where(left == "", 0, high - low)
    first = np.repeat(np.arange(len(left)), count)
    step = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    return first, order[np.repeat(low, count) + step]


def spaced(n: int, most: int) -> slice:
    """Evenly spaced ones of n rows, so many at most."""
    return slice(None, None, max(1, -(-n // most)))


def group_means(keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[Any, Float]:
    """The distinct keys, sorted, and the mean of each one's rows of `values` (n, d), float64."""
    order = np.argsort(keys, kind="stable")
    names, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    total = np.add.reduceat(values[order].astype(np.float64), first, axis=0)
    return names, total / counts[:, None]


def principal_components(values: Matrix | Float, count: int) -> tuple[Float, Float]:
    """The variances (m,) and directions (d, m) of the leading principal components.

    Works in whichever of rows and columns of `values` (n, d) is the smaller dimension.
    """
    centred = values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)
    n, d = centred.shape
    count = min(count, n - 1, d)
    small = centred.T @ centred if d <= n else centred @ centred.T
    variances, vectors = np.linalg.eigh(small / n)
    variances, vectors = np.maximum(variances[::-1][:count], 1e-12), vectors[:, ::-1][:, :count]
    return variances, vectors if d <= n else centred.T @ vectors / np.sqrt(n * variances)


def unit(matrix: npt.ArrayLike) -> Matrix:
    """Rows of an (n, d) array scaled to Euclidean norm 1, float32; zero rows stay zero."""
    rows = np.asarray(matrix, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(norms > 0, norms, 1.0), dtype=np.float32)
