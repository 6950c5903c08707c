"""Sparse rows of one width times dense columns: the compiled products of scipy.sparse.

They are taken from scipy's extension module alone, since importing `scipy.sparse` takes as long as
the product of half a million rows; where that does not work, from the package.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib import machinery, util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molquery.vectors import Matrix


@cache
def _tools() -> Any:
    """scipy's `csr_matvec` and `csr_matvecs`."""
    found = util.find_spec("scipy")
    assert found is not None
    assert found.origin is not None
    spec = machinery.PathFinder.find_spec(
        "_sparsetools", [str(Path(found.origin).parent / "sparse")]
    )
    try:
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.csr_matvec, module.csr_matvecs
    except (AssertionError, AttributeError, ImportError):
        module = importlib.import_module("scipy.sparse._sparsetools")
        return module.csr_matvec, module.csr_matvecs


def product(indices: npt.NDArray[np.int32], weights: Matrix, columns: Matrix) -> Matrix:
    """(n, s) float32: sum_j weights_ij columns[indices_ij], each row by itself.

    Args:
        indices: (n, k) int32, none of them negative; weights: (n, k) float32. C-contiguous.
        columns: (m, s) float32, what is summed.
    """
    n, width = indices.shape
    m, s = columns.shape
    starts = np.arange(0, indices.size + 1, width, dtype=np.int32)
    rows = starts, indices.reshape(-1), weights.reshape(-1)
    vector, vectors = _tools()
    if s == 1:
        out = np.zeros(n, np.float32)
        vector(n, m, *rows, np.ascontiguousarray(columns[:, 0]), out)
        return out[:, None]
    many = np.zeros((n, s), np.float32)
    vectors(n, m, s, *rows, np.ascontiguousarray(columns).reshape(-1), many.reshape(-1))
    return many
