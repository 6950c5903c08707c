"""Calibration of slide scores: random gene sets as the null, percentiles, within-group scores,
and split-conformal bounds on the error of a prediction."""

from __future__ import annotations

import numpy as np

from molquery.evaluate.metrics import benjamini_hochberg, empirical_p, percentile_rank
from molquery.genesets.scoring import GeneSet
from molquery.reference import Reference
from molquery.vectors import Bools, Float, Ints, Strings

DEFAULT_NULL = 300
LEAST_NULL = 100  # random sets: fewer give no p below 0.01
_BINS = 10
#: Level of the prediction intervals.
LEVEL = 0.9
#: A cohort's own errors bound it from this many patients on; 9 is the least that 90 % can use.
MIN_PATIENTS = 20
#: Share of ordinary slides that are flagged as unlike the training slides.
FALSE_ALARM = 0.02


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


def conformal_bound(errors: Float, patients: Strings, level: float) -> float:
    """The bound that the error of a new patient's slide stays under with probability `level`.

    Split conformal: with one slide a patient it is the ceil((n + 1) level)-th smallest of n errors.
    With several, the quantile of the errors that gives each of K patients the mass 1 / (K + 1),
    shared by its slides, and infinity the rest (arXiv 2306.06342). Infinite with too few patients.

    Args:
        errors: (n,) of held-out slides.
        patients: (n,) what is exchangeable; an empty name stands alone.
    """
    if len(errors) == 0:
        return float("inf")
    _, code, count = np.unique(_named(patients), return_inverse=True, return_counts=True)
    order = np.argsort(errors, kind="stable")
    mass = np.cumsum(1.0 / count[code][order]) / (len(count) + 1)
    reached = np.flatnonzero(mass >= level - 1e-12)
    return float(errors[order[reached[0]]]) if len(reached) else float("inf")


def cohort_bounds(
    errors: Float, cohorts: Strings, patients: Strings, level: float
) -> dict[str, float]:
    """`conformal_bound` of every cohort with at least `MIN_PATIENTS` patients, by its own errors.

    Within each cohort the guarantee holds by itself (Mondrian conformal prediction,
    doi:10.1007/s10994-013-5355-6).
    """
    named = _named(patients)
    bounds = {}
    for cohort in np.unique(cohorts):
        mine = cohorts == cohort
        if len(np.unique(named[mine])) >= MIN_PATIENTS:
            bounds[str(cohort)] = conformal_bound(errors[mine], patients[mine], level)
    return bounds


def outlying(distance: Float, held_out: Bools, cohorts: Strings, patients: Strings) -> Bools:
    """(n_slides,) slides further from the training slides than held-out slides of their cohort are.

    A slide is flagged where one of its distances exceeds the conformal bound of the held-out slides
    of its cohort, at half of `FALSE_ALARM` for each distance. Where those are too few, the bound is
    that of all held-out slides, and where these are too few, the largest of them.

    Args:
        distance: (n_slides, 2) of `predict.Operator`.
        held_out: (n_slides,) slides whose distance is to slides of other patients.
        cohorts, patients: (n_slides,)
    """
    flagged = np.zeros(len(distance), dtype=bool)
    for values in distance.T:
        known = held_out & np.isfinite(values)
        if not known.any():
            continue
        level = 1 - FALSE_ALARM / distance.shape[1]
        whole = conformal_bound(values[known], patients[known], level)
        whole = whole if np.isfinite(whole) else float(values[known].max())
        for cohort in np.unique(cohorts):
            mine = cohorts == cohort
            own = known & mine
            bound = conformal_bound(values[own], patients[own], level)
            flagged |= mine & (values > (bound if np.isfinite(bound) else whole))
    return flagged


def _named(patients: Strings) -> Strings:
    """Patients, with a name of its own for each that has none."""
    lone = np.array([f"\0{i}" for i in range(len(patients))])
    return np.where(patients == "", lone, patients)
