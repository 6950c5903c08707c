"""The patient bootstrap as weights: one set of resamples, shared by every statistic of a report.

A resample draws as many patients as there are, with replacement (Efron 1979,
doi:10.1214/aos/1176344552). All rows of a patient are drawn together, so a row's weight is how
often its patient was drawn. Statistics are computed for all resamples at once; their first value is
that of the data as they are, and the difference of two statistics is a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molquery.errors import InputError
from molquery.evaluate.metrics import CONSTANT, Labels, Ranks
from molquery.vectors import Bools, Float, Ints, Strings

RESAMPLES = 1000
#: The figures of a retrieval, as `retrieval` returns them.
FIGURES = ("recall1", "recall5", "recall10", "median_rank", "mrr", "chance10", "fold10")
_MEANS = ("recall1", "recall5", "recall10", "mrr", "chance10")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % bootstrap interval over patients; None where not measurable."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(replicates: npt.ArrayLike) -> Estimate:
    """The estimate of a statistic (n + 1,): the first value, and 2.5 and 97.5 percentiles of the
    rest. Resamples in which it is NaN are left out; there is no interval when most are."""
    values = np.asarray(replicates, dtype=np.float64)
    if not np.isfinite(values[0]):
        return Estimate(None)
    drawn = values[1:][np.isfinite(values[1:])]
    if len(drawn) == 0 or 2 * len(drawn) < len(values) - 1:
        return Estimate(float(values[0]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(values[0]), float(low), float(high))


class Resamples:
    """Bootstrap resamples of patients, for rows of any table of theirs.

    Attributes:
        names: (n_groups,) the patients, sorted.
        draws: (n + 1, n_groups) how often each is drawn; the first row is all ones. With a single
            patient there is no resample: intervals are not measurable.
    """

    def __init__(self, groups: Labels, *, n: int = RESAMPLES, seed: int = 0) -> None:
        if len(groups) == 0:
            raise InputError("an interval needs at least one row")
        self.names: Strings = np.unique(np.array([str(g) for g in groups], dtype=str))
        count = len(self.names)
        drawn = np.random.default_rng(seed).multinomial(
            count, np.full(count, 1.0 / count), size=n if count > 1 else 0
        )
        self.draws: Float = np.vstack([np.ones((1, count)), drawn])

    def of(self, groups: Labels) -> Drawn:
        """The weights of rows that belong to these patients (n_rows,), all of them known here."""
        own = np.array([str(g) for g in groups], dtype=str)
        codes = np.searchsorted(self.names, own)
        return Drawn(self.draws, codes.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Rows in bootstrap resamples: how often each patient is drawn, and whose each row is.

    Attributes:
        draws: (n + 1, n_groups), as in `Resamples`.
        codes: (n_rows,) the patient of every row.
    """

    draws: Float
    codes: Ints

    @property
    def weights(self) -> Float:
        """(n + 1, n_rows) how often every row is drawn."""
        return np.asarray(self.draws[:, self.codes])

    def take(self, rows: Ints | Bools) -> Drawn:
        """Some of the rows."""
        return Drawn(self.draws, self.codes[rows])

    def sums(self, values: Float) -> Float:
        """(n + 1, m) sums of `values` (n_rows, m), each row as often as it is drawn."""
        total = np.zeros((self.draws.shape[1], values.shape[1]))
        np.add.at(total, self.codes, values)
        return np.asarray(self.draws @ total)


def correlations(predicted: Float, measured: Float, drawn: Drawn) -> tuple[Float, Float]:
    """R² and Pearson's r of every column in every resample, each (n + 1, s).

    Args:
        predicted, measured: (n_rows, s), as in `metrics.r2`.

    Returns:
        NaN where a column is constant in a resample.
    """
    # Sums of centred values: sums of squares of large numbers would lose the small differences.
    centre_p, centre_m = predicted.mean(axis=0), measured.mean(axis=0)
    p, m, shift = predicted - centre_p, measured - centre_m, centre_p - centre_m
    total = drawn.sums(np.hstack([np.ones((len(p), 1)), p, m, p * p, m * m, p * m]))
    n = np.where(total[:, :1] > 0, total[:, :1], np.nan)
    sp, sm, spp, smm, spm = np.split(total[:, 1:], 5, axis=1)
    vp = _nan_if_constant(spp - sp * sp / n, spp)
    vm = _nan_if_constant(smm - sm * sm / n, smm)
    with np.errstate(invalid="ignore"):
        r = np.clip((spm - sp * sm / n) / np.sqrt(vp * vm), -1.0, 1.0)
        residual = smm - 2 * spm + spp + 2 * shift * (sp - sm) + n * shift * shift
        return np.asarray(1.0 - residual / vm), np.asarray(r)


def within_r(
    predicted: Float, measured: Float, cohorts: Strings, drawn: Drawn, *, min_n: int
) -> tuple[Float, dict[str, Float]]:
    """`metrics.within_cohort_r` in every resample: the mean over cohorts, and each cohort's r.

    All arrays are (n + 1, s). Which cohorts have `min_n` pairs is decided on the data as they are;
    rows without a cohort (the empty string) are left out.
    """
    by_cohort: dict[str, Float] = {}
    for cohort in np.unique(cohorts[cohorts != ""]):
        rows = np.flatnonzero(cohorts == cohort)
        if len(rows) >= min_n:
            found = correlations(predicted[rows], measured[rows], drawn.take(rows))
            by_cohort[str(cohort)] = found[1]
    if not by_cohort:
        return np.full((len(drawn.draws), predicted.shape[1]), np.nan), by_cohort
    each = np.stack(list(by_cohort.values()))
    known = ~np.isnan(each)
    total, count = np.where(known, each, 0.0).sum(axis=0), known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), by_cohort


def retrieval(parts: Sequence[tuple[Ranks, Drawn]]) -> dict[str, Float]:
    """The figures of a retrieval over several folds in every resample, by name, each (n + 1,).

    A figure is its mean over the folds, weighted by the fold's queries, as
    `held_out.mean_retrieval` defines it.

    Args:
        parts: for every fold the standing of its queries, and the resamples of all the rows that
            `metrics.ranks` was given.
    """
    sums: dict[str, Float] = {}
    queries: Float = np.zeros(len(parts[0][1].draws))
    for found, drawn in parts:
        weights = drawn.take(found.query).weights
        hits = [found.hits(k) for k in (1, 5, 10)]
        columns = np.stack([*hits, found.reciprocal, found.chance(10)], axis=1)
        count = weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = dict(zip(_MEANS, (weights @ columns / count[:, None]).T, strict=True))
            means["fold10"] = means["recall10"] / means["chance10"]
        means["median_rank"] = weighted_median(found.rank, weights)
        for name in FIGURES:
            sums[name] = sums.get(name, 0.0) + np.where(count > 0, means[name] * count, 0.0)
        queries += count
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.asarray(total / queries) for name, total in sums.items()}


def weighted_median(values: Float, weights: Float) -> Float:
    """The median (b,) of `values` (n,) repeated as often as `weights` (b, n) say, whole numbers.

    NaN where all weights are 0.
    """
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(weights[:, order], axis=1)
    total = upto[:, -1:]
    middle = [values[order][(upto > place).argmax(axis=1)] for place in
              (np.floor((total - 1) / 2), np.floor(total / 2))]  # fmt: skip
    return np.where(total[:, 0] > 0, (middle[0] + middle[1]) / 2, np.nan)


def auc(scores: Float, labels: Bools, weights: Float) -> Float:
    """`metrics.auc` in every resample, (b,): rows count as often as `weights` (b, n) say.

    NaN where one of the two classes was not drawn.
    """
    values, place = np.unique(scores, return_inverse=True)
    positive = np.zeros((len(weights), len(values)))
    negative = np.zeros_like(positive)
    np.add.at(positive.T, place[labels], weights[:, labels].T)
    np.add.at(negative.T, place[~labels], weights[:, ~labels].T)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positive * (below + negative / 2)).sum(axis=1) / pairs)


def _nan_if_constant(spread: Float, squares: Float) -> Float:
    return np.asarray(np.where(spread <= CONSTANT * np.abs(squares), np.nan, spread))
