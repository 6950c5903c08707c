"""Exact search by inner product over rows that are in memory or mapped into it, without a copy.

Scores are float32, added up row by row in the same way whatever the number of threads or queries,
so that equal rows have equal scores; equal scores are in the order of the rows. Rows may be
float16: the query stays float32, and each score is off by at most 2^-11 of sum_i |x_i q_i|, which
for unit vectors is below 5e-4 and mostly near 1e-5 (`tests/test_scan.py`).
"""

from __future__ import annotations

import numpy as np

from molquery.index import library
from molquery.index.library import Vectors
from molquery.vectors import Bools, Float, Ints, Matrix

#: Where a smaller share of the rows is allowed, they alone are read; else every row is.
GATHER = 0.25
_SPARE = 32  # more candidates than asked for, so that rounding and ties at the end lose nothing
_TIE = 1e-5  # nearer than this, the last of the candidates may have been chosen by rounding


def top(
    vectors: Vectors, queries: Matrix, k: int, allowed: Bools | None = None
) -> tuple[Matrix, Ints]:
    """The k nearest rows of each query: scores float32 and positions, both (n_queries, k).

    Positions are -1, and scores -inf, where fewer than k rows qualify. `allowed` (n,) restricts
    the answer. Best first; equal scores in the order of the rows.
    """
    n = len(vectors)
    k = min(k, n)
    if len(queries) == 0 or k <= 0:
        return _nothing(len(queries), 0)
    rows = None if allowed is None else positions(allowed)
    if rows is not None and len(rows) == n:
        rows = None
    if rows is not None and len(rows) == 0:
        return _nothing(len(queries), k)
    if len(queries) >= library.MANY and k + _SPARE < n // 4:
        return _many(vectors, queries, k, rows)
    found = [_one(vectors, query, k, rows) for query in queries]
    scores, at = (np.stack(side) for side in zip(*found, strict=True))
    return scores, at


def positions(allowed: Bools) -> Ints:
    """The positions of the rows (n,) that are allowed, rising.

    Of few rows by their bits, eight rows a byte: that takes half the time of NumPy's own search.
    """
    packed = np.packbits(allowed)
    held = np.flatnonzero(packed != 0)
    if 50 * len(held) > len(packed):
        return np.flatnonzero(allowed)
    places = 8 * held[:, None] + np.arange(8)
    return np.asarray(places[np.unpackbits(packed[held]).reshape(-1, 8) == 1])


def scores(vectors: Vectors, query: Matrix) -> Matrix:
    """(n,) float32 inner products of every row with a query (d,)."""
    return library.scores(vectors, query)


def ranking(vectors: Vectors, query: Matrix) -> tuple[Matrix, Ints]:
    """Every row, best first, equal scores in the order of the rows: scores and positions (n,)."""
    values = scores(vectors, query)
    order = stable_order(values)
    return values[order], order


def stable_order(values: Matrix) -> Ints:
    """Positions (n,) of float32 values from the highest to the lowest; ties in their own order.

    Value and position are packed into one integer, which sorts several times faster than a stable
    sort of the values does, and is as stable. NaN come last; 0.0 and -0.0 are equal.
    """
    bits = (np.asarray(values, dtype=np.float32) + np.float32(0.0)).view(np.uint32)
    # The bits of floats sort as the floats do, once the negative ones are turned round.
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    rising[np.isnan(values)] = 0
    packed = ~rising.astype(np.uint64) << np.uint64(32)
    packed |= np.arange(len(values), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)


def best(values: Matrix | Float, k: int, rows: Ints | None = None) -> Ints:
    """Positions of the k highest of values (n,), best first; ties in the order of the rows.

    `rows` are the positions that values belong to, rising; by default 0 to n - 1.
    """
    k = min(k, len(values))
    if k <= 0:
        return np.empty(0, np.int64)
    if k < len(values):
        least = np.partition(values, len(values) - k)[len(values) - k]
        chosen = np.flatnonzero(values >= least)
    else:
        chosen = np.arange(len(values))
    chosen = chosen[np.argsort(-values[chosen], kind="stable")[:k]]
    return chosen if rows is None else rows[chosen]


def _one(vectors: Vectors, query: Matrix, k: int, rows: Ints | None) -> tuple[Matrix, Ints]:
    n = len(vectors)
    few = rows is not None and len(rows) < GATHER * n
    if rows is not None and few:
        values = library.scores_of(vectors, query, rows)
        chosen = best(values, k)
        return _padded(values[chosen], rows[chosen], k)
    if vectors.dtype == np.float16 and rows is None and k + _SPARE < n // 4:
        # Its heaps read half the memory of all scores, but do not say how ties at the end fell.
        _, at = library.nearest_half(vectors, query, k + _SPARE)
        at = np.sort(at)
        values = library.scores_of(vectors, query, at)
        chosen = best(values, k)
        if values[chosen[-1]] - values.min() > _TIE:
            return values[chosen], at[chosen]
    values = scores(vectors, query)
    if rows is not None:
        chosen = best(values[rows], k)
        return _padded(values[rows][chosen], rows[chosen], k)
    chosen = best(values, k)
    return values[chosen], chosen


def _many(vectors: Vectors, queries: Matrix, k: int, rows: Ints | None) -> tuple[Matrix, Ints]:
    """Many queries at once: candidates by BLAS, then their scores as `_one` gives them."""
    queries = np.ascontiguousarray(queries, np.float32)
    wanted = k + _SPARE
    at = library.nearest_many(vectors, queries, wanted, rows)
    out, places = _nothing(len(queries), k)
    for q, query in enumerate(queries):
        mine = np.sort(at[q])
        values = library.scores_of(vectors, query, mine)
        chosen = best(values, k)
        if len(mine) == wanted and values[chosen[-1]] - values.min() <= _TIE:
            out[q], places[q] = _one(vectors, query, k, rows)
        else:
            out[q], places[q] = _padded(values[chosen], mine[chosen], k)
    return out, places


def _padded(values: Matrix, rows: Ints, k: int) -> tuple[Matrix, Ints]:
    if len(rows) == k:
        return values, rows
    out, at = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
    out[: len(rows)], at[: len(rows)] = values, rows
    return out, at


def _nothing(queries: int, k: int) -> tuple[Matrix, Ints]:
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)
