"""Calibration of slide scores: random gene sets as the null, percentiles, within-group scores,
and split-conformal bounds on the error of a prediction."""

from __future__ import annotations

import numpy as np

from molquery.evaluate.metrics import benjamini_hochberg, percentile_rank
from molquery.genesets.scoring import GeneSet
from molquery.reference import Reference
from molquery.texts import Groups
from molquery.vectors import Bools, Float, Ints, Matrix, Strings

DEFAULT_NULL = 300
LEAST_NULL = 100  # random sets: fewer give no p below 0.01
_BINS = 10
#: From more slides than the first, about as many as the second stand for all of them.
WHOLE, SAMPLE = 50_000, 10_000
#: Slides of a sample that stand for their group, at least: a percentile is off by 5 or less.
LEAST_OF_GROUP = 100
_FEW_GROUPS = 64  # up to here each is sought by itself
#: Level of the prediction intervals.
LEVEL = 0.9
#: A cohort's own errors bound it from this many patients on; 9 is the least that 90 % can use.
MIN_PATIENTS = 20
#: Share of ordinary slides that are flagged as unlike the training slides.
FALSE_ALARM = 0.03


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


def sampled(rows: Ints) -> Ints:
    """Evenly spaced ones of many rows (n,), all of few.

    An FDR of 0.1 takes its least possible p, 1 / 301 with 300 random sets, in 3 % of the slides: so
    it rests on some 300 of the sample or more, and its standard error is 6 % of it at most.
    """
    return rows if len(rows) <= WHOLE else rows[:: len(rows) // SAMPLE]


def fdr(p: Float, among: Float) -> Float:
    """Benjamini-Hochberg adjusted p (n,) (doi:10.1111/j.2517-6161.1995.tb02031.x).

    Args:
        p: (n,) what is adjusted.
        among: (m,) the p of everything tested, or of a sample of it.
    """
    order = np.argsort(among, kind="stable")
    steps = np.append(benjamini_hochberg(among)[order], 1.0)
    # Adjusted values rise with p: what is between two of the sample has that of the upper one.
    at = np.searchsorted(among[order], p)
    return np.where(at < len(among), steps[at], p)


def percentile(values: Float, rows: Ints | None = None) -> Float:
    """Mid-rank percentile in [0, 100] of the values (n,), or of those in some rows (n_rows,)."""
    return percentile_rank(values) if rows is None else standing(values[rows], values)


def standing(wanted: Float, values: Float) -> Float:
    """Mid-rank percentile in [0, 100] of numbers (n_wanted,) among values (n,)."""
    counted = len(values) - int(np.isnan(values).sum())
    ordered = np.sort(values)[:counted]  # NaN comes last
    below, upto = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
    found = 100.0 * ((below + upto + 1) / 2.0 - 0.5) / max(counted, 1)
    return np.where(np.isnan(wanted), np.nan, found)


def standing_in_groups(wanted: Float, own: Ints, values: Float, code: Ints) -> tuple[Float, Float]:
    """As `within_groups`, of numbers among a sample of the values of their own group.

    Both are NaN where the sample has fewer than `LEAST_OF_GROUP` of the group.

    Args:
        wanted: (n_wanted,) numbers, and own: (n_wanted,) their groups.
        values: (n,) the sample, and code: (n,) the groups.
    """
    percentiles, standard = np.full(len(wanted), np.nan), np.full(len(wanted), np.nan)
    for g in np.unique(own).tolist():
        mine, inside = own == g, values[code == g]
        if len(inside) >= LEAST_OF_GROUP:
            percentiles[mine], standard[mine] = _place(wanted[mine], inside)
    return percentiles, standard


def _place(wanted: Float, values: Float) -> tuple[Float, Float]:
    """Percentile and standardised score of numbers (n_wanted,) among values (n,)."""
    spread = values.std()
    standard = (wanted - values.mean()) / spread if spread > 0 else np.full(len(wanted), np.nan)
    return standing(wanted, values), standard


def within_groups(values: Float, groups: Groups, rows: Ints | None = None) -> tuple[Float, Float]:
    """Percentile and standardised score inside each value's own group, of all rows or of some.

    Both are NaN for values without a group; the score is NaN in a group of one or without spread.
    """
    wanted = np.arange(len(values)) if rows is None else rows
    percentiles, standard = np.full(len(wanted), np.nan), np.full(len(wanted), np.nan)
    code = groups.code[wanted]
    order = np.argsort(code, kind="stable")
    present, count = np.unique(code, return_counts=True)
    by_group = None
    if len(present) > _FEW_GROUPS:
        by_group = np.argsort(groups.code, kind="stable")
        edges = np.searchsorted(groups.code[by_group], np.arange(len(groups.names) + 1))
    for g, stop, n in zip(present.tolist(), np.cumsum(count), count, strict=True):
        mine = order[stop - n : stop]
        if groups.names[g] == "":
            continue
        if by_group is None:
            members = np.flatnonzero(groups.code == g)
        else:
            members = by_group[edges[g] : edges[g + 1]]
        percentiles[mine], standard[mine] = _place(values[wanted[mine]], values[members])
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


def outlying(distance: Matrix, known: Ints, cohorts: Groups, patients: Strings) -> Bools:
    """(n_slides,) slides further from the training slides than held-out slides of their cohort are.

    A slide is flagged where one of its distances exceeds the conformal bound of the held-out slides
    of its cohort, at half of `FALSE_ALARM` for each distance. Where those are too few, the bound is
    that of all held-out slides, and where these are too few, the largest of them.

    Args:
        distance: (n_slides, 2) of `predict.Operator`.
        known: (n_known,) slides whose distance is to slides of other patients.
        cohorts: of all slides; patients: (n_known,)
    """
    flagged = np.zeros(len(distance), dtype=bool)
    own = cohorts.code[known]
    for column in range(distance.shape[1]):
        values = distance[known, column].astype(np.float64)
        finite = np.isfinite(values)
        if not finite.any():
            continue
        level = 1 - FALSE_ALARM / distance.shape[1]
        whole = conformal_bound(values[finite], patients[finite], level)
        whole = whole if np.isfinite(whole) else float(values[finite].max())
        bounds = np.full(len(cohorts.names), whole)
        for cohort in np.unique(own[finite]).tolist():
            mine = finite & (own == cohort)
            bound = conformal_bound(values[mine], patients[mine], level)
            bounds[cohort] = bound if np.isfinite(bound) else whole
        flagged |= distance[:, column] > bounds[cohorts.code]
    return flagged


def _named(patients: Strings) -> Strings:
    """Patients, with a name of its own for each that has none."""
    lone = np.flatnonzero(patients == "")
    if len(lone) == 0:
        return patients
    named = patients.astype(object)
    named[lone] = [f"\0{i}" for i in range(len(lone))]
    return named.astype(str)
