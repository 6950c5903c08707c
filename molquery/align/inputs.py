"""Input transforms, fitted on training pairs only."""

from __future__ import annotations

import numpy as np

from molquery.align.pairs import Pairs
from molquery.encoders import FEATURES_KIND
from molquery.space import ProfileInput, SlideInput, normal_scores
from molquery.vectors import Bools, Matrix

_KNOTS = 101  # quantiles kept of each feature: percentiles, fine enough for normal scores
_TINY = 1e-6  # a feature or gene that varies less than this is constant


def fit_slide_input(pairs: Pairs, train: Bools, kind: str) -> SlideInput:
    """The slide transform from the slides of the training pairs (`train`: (n_pairs,) mask).

    The mean of a cohort without a training pair is taken over all its slides: it needs no RNA.
    """
    rows = np.unique(pairs.slide[train])
    vectors = pairs.slides.vectors
    knots = None
    values = vectors[rows]
    if kind == FEATURES_KIND:
        knots = _quantiles(values)
        values = normal_scores(values, knots)
    with np.errstate(invalid="ignore"):
        mean, scale = _moments(values)
    partial = SlideInput(knots, mean, scale, (), np.zeros((0, vectors.shape[1]), np.float32))
    names, offsets = [], []
    seen = pairs.slides.cohorts[rows]
    for cohort in sorted(set(pairs.slides.cohorts) - {""}):
        members = rows[seen == cohort]
        if len(members) == 0:
            members = np.flatnonzero(pairs.slides.cohorts == cohort)
        names.append(str(cohort))
        offsets.append(partial.standardise(vectors[members]).mean(axis=0))
    stacked = np.array(offsets, dtype=np.float32).reshape(len(names), vectors.shape[1])
    return SlideInput(knots, mean, scale, tuple(names), stacked)


def fit_profile_input(pairs: Pairs, reference: Bools) -> ProfileInput:
    """The profile transform, from the reference profiles (`reference`: (n_profiles,) mask)."""
    mean, scale = _moments(pairs.profiles.vectors[reference])
    return ProfileInput(mean, scale)


def _moments(values: Matrix) -> tuple[Matrix, Matrix]:
    """Column means and standard deviations without missing values; constants get scale 1."""
    known = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    mean = np.nansum(values, axis=0, dtype=np.float64) / known
    variance = np.nansum((values - mean) ** 2, axis=0, dtype=np.float64) / known
    scale = np.sqrt(variance)
    scale[scale < _TINY] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)


def _quantiles(values: Matrix) -> Matrix:
    """(n_knots, d) quantiles of each feature, without its missing values."""
    grid = (np.arange(_KNOTS) + 0.5) / _KNOTS
    known = ~np.isnan(values).all(axis=0)
    out = np.zeros((_KNOTS, values.shape[1]), np.float32)
    out[:, known] = np.nanquantile(values[:, known], grid, axis=0)
    return out
