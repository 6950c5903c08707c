"""How a shared space lies: hubs, and the gap between its two kinds of vectors."""

from __future__ import annotations

import numpy as np

from molquery.evaluate.metrics import CONSTANT
from molquery.vectors import Float, Ints, Matrix


def k_occurrence(similarity: Float | Matrix, k: int) -> Ints:
    """How many queries have each candidate among their k nearest: (nq, ng) -> (ng,).

    Hubs are candidates with many (Radovanović et al. 2010, JMLR 11:2487). Ties go to the first.
    """
    k = min(k, similarity.shape[1])
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.bincount(nearest.ravel(), minlength=similarity.shape[1]).astype(np.int64)


def skewness(values: Ints | Float) -> float:
    """Skewness E[(v - mean)³] / sd³; NaN where the values do not vary.

    Of k-occurrences it measures hubness: near 0 without hubs, 2 and more with strong ones.
    """
    centred = np.asarray(values, dtype=np.float64) - np.mean(values)
    spread = float(np.sqrt((centred**2).mean()))
    if spread <= CONSTANT * abs(float(np.mean(values))):
        return float("nan")
    return float((centred**3).mean() / spread**3)


def modality_gap(slides: Matrix, profiles: Matrix) -> float:
    """Distance between the mean slide and the mean profile, both unit vectors: from 0 to 2.

    ||mean_i x_i - mean_j r_j|| (Liang et al. 2022, arXiv 2203.02053).
    """
    mean = slides.mean(axis=0, dtype=np.float64) - profiles.mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(mean))
