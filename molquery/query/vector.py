"""A signature as one vector of the shared space, so that an index can rank by inner product."""

from __future__ import annotations

import numpy as np

from molquery.vectors import Float, Matrix

_RIDGE = 1e-2  # of the mean squared coordinate: the space is whitened enough to need little


def signature_vector(slide_vectors: Matrix, scores: Float) -> Float:
    """The unit vector (dim,) whose inner product with slides follows their scores best.

    The linear surrogate of a prediction: the ridge regression of scores (n_slides,) on shared
    vectors (n_slides, dim). All zeros where the scores do not vary.
    """
    vector = ridge_vector(slide_vectors, scores[:, None], _RIDGE)[:, 0]
    norm = float(np.linalg.norm(vector))
    return np.asarray(vector / norm if norm > 0 else vector)


def ridge_vector(vectors: Matrix | Float, scores: Float, penalty: float) -> Float:
    """The ridge regression (dim, S) of scores (n, S) on vectors (n, dim), both centred.

    `penalty` is in units of the mean squared coordinate.
    """
    x = vectors.astype(np.float64)
    x = x - x.mean(axis=0)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += penalty * np.trace(gram) / len(gram) + 1e-12
    return np.asarray(np.linalg.solve(gram, x.T @ (scores - scores.mean(axis=0))))
