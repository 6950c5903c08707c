"""Calibration of slide scores: random gene sets as the null, percentiles, within-group scores."""

from __future__ import annotations

import numpy as np

from molquery.evaluate.metrics import benjamini_hochberg, empirical_p, percentile_rank
from molquery.genesets.scoring import GeneSet
from molquery.reference import Reference
from molquery.vectors import Float, Ints, Strings

DEFAULT_NULL = 300
_BINS = 10


def random_sets(
    reference: Reference, positions: Ints, weights: Float, *, count: int, seed: list[int]
) -> list[GeneSet]:
    """Random gene sets like a signature: same size, same weights, genes of like mean expression.

    Usable genes are cut into ten bins by their mean over the reference. Each gene of the signature
    is replaced by a random one of its own bin, without repeats inside a set, and not by a gene of
    the signature unless the bin has too few others.
    """
    generator = np.random.default_rng(seed)
    usable = np.flatnonzero(reference.usable)
    means = reference.moments.mean[usable]
    order = np.argsort(means, kind="stable")
    bin_of = np.empty(len(reference.genes), dtype=np.int64)
    bin_of[usable[order]] = np.arange(len(usable)) * _BINS // max(1, len(usable))
    sets: list[GeneSet] = []
    chosen = np.empty((count, len(positions)), dtype=np.int64)
    for b in np.unique(bin_of[positions]):
        mine = np.flatnonzero(bin_of[positions] == b)
        pool = usable[bin_of[usable] == b]
        others = np.setdiff1d(pool, positions)
        pool = others if len(others) >= len(mine) else pool
        # The first len(mine) of a random order of the pool, for every set at once.
        draw = np.argpartition(generator.random((count, len(pool))), len(mine) - 1, axis=1)
        chosen[:, mine] = pool[draw[:, : len(mine)]]
    for row in chosen:
        sets.append((row, weights))
    return sets


def null_statistics(scores: Float, null: Float) -> tuple[Float, Float]:
    """p and z (n_slides,) of scores (n_slides,) against null scores (n_slides, n_null).

    p is the share of random sets that score at least as high in the same slide, (1 + count) /
    (1 + n_null); z says how many standard deviations of the null the score lies above its mean.
    """
    mean, sd = null.mean(axis=1), null.std(axis=1)
    z = np.divide(scores - mean, sd, out=np.zeros_like(scores), where=sd > 0)
    return empirical_p(scores, null), z


def fdr(p: Float) -> Float:
    """Benjamini-Hochberg adjusted p (n,) (doi:10.1111/j.2517-6161.1995.tb02031.x)."""
    return benjamini_hochberg(p)


def percentile(values: Float) -> Float:
    """Mid-rank percentile (n,) in [0, 100]."""
    return percentile_rank(values)


def within_groups(values: Float, groups: Strings) -> tuple[Float, Float]:
    """Percentile and standardised score inside each value's own group.

    Both are NaN for values without a group; the score is NaN in a group of one or without spread.
    """
    percentiles, standard = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for group in np.unique(groups[groups != ""]):
        rows = groups == group
        percentiles[rows] = percentile_rank(values[rows])
        spread = values[rows].std()
        if spread > 0:
            standard[rows] = (values[rows] - values[rows].mean()) / spread
    return percentiles, standard
