"""Retrieval, correlation and calibration metrics: arrays in, arrays out.

Everything is numpy in float64. What a metric cannot answer (a constant column, too few pairs) is
NaN inside an array; `optional` turns such a value into None for records and JSON. Which rows are
held out is decided in `splits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from molquery.errors import InputError
from molquery.vectors import Float, Ints

Labels: TypeAlias = Sequence[str | None] | npt.NDArray[Any]

#: A column counts as constant when its spread is below this share of its mean: rounding, no signal.
CONSTANT = 1e-13


# Retrieval


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How well queries find their own partner in a gallery.

    Attributes:
        n_queries: queries with at least one positive in their gallery; only these are counted.
        gallery: mean number of candidates per query, rounded.
        recall1: share of queries with a positive among the first candidate; 5 and 10 likewise.
        median_rank: median over queries of the rank of the best positive; 1 is the top.
        mrr: mean over queries of 1 / rank.
        chance10: the recall10 expected of a random order, exactly (hypergeometric).
        fold10: recall10 / chance10.
    """

    n_queries: int
    gallery: int
    recall1: float
    recall5: float
    recall10: float
    median_rank: float
    mrr: float
    chance10: float
    fold10: float


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where the best positive of every query stands; all arrays (m,) int64.

    Ties are settled by expectation over all orders of the tied candidates: with one tied positive
    each tied negative counts half, which is the mid-rank, and a constant similarity gives exactly
    the values of a random order: it is the random baseline.

    Attributes:
        query: row of the query in the similarity matrix; queries without a positive are left out.
        above: negatives with a higher similarity than the best positive.
        tied: negatives with the same similarity as the best positive.
        tied_positives: positives with that similarity, the best itself included, at least 1.
        positives: positives in the gallery of the query.
        gallery: candidates in the gallery of the query.
    """

    query: Ints
    above: Ints
    tied: Ints
    tied_positives: Ints
    positives: Ints
    gallery: Ints

    @property
    def rank(self) -> Float:
        """Expected rank of the best positive (m,): 1 + above + tied / (1 + tied_positives)."""
        return np.asarray(1.0 + self.above + self.tied / (1.0 + self.tied_positives))

    @property
    def reciprocal(self) -> Float:
        """Expected 1 / rank of the best positive (m,)."""
        result = 1.0 / (1.0 + self.above)
        for i in np.flatnonzero(self.tied):
            # P(first positive at place r of the tied block) = P(r - 1 misses) - P(r misses)
            place = np.arange(1.0, self.tied[i] + 2)
            left = self.tied[i] + self.tied_positives[i] - place + 1
            misses = np.cumprod((self.tied[i] - place + 1) / left)
            first = np.concatenate(([1.0], misses[:-1])) - misses
            result[i] = (first / (self.above[i] + place)).sum()
        return np.asarray(result)

    def take(self, chosen: npt.NDArray[Any]) -> Ranks:
        """Some of the queries: a mask, or positions."""
        return Ranks(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def hits(self, k: int) -> Float:
        """Probability (m,) that a positive is among the first `k`: 0 or 1 where nothing is tied."""
        return _hit(self.tied, self.tied_positives, k - self.above)

    def chance(self, k: int) -> Float:
        """Probability (m,) that a random order has a positive among the first `k`."""
        return _hit(self.gallery - self.positives, self.positives, np.full(len(self.query), k))


def ranks(
    similarity: npt.ArrayLike, positives: npt.ArrayLike, *, allowed: npt.ArrayLike | None = None
) -> Ranks:
    """The standing of the best positive of every query, for `retrieval_from_ranks` and `resample`.

    Args:
        similarity: (nq, ng), higher is closer.
        positives: bool (nq, ng), true where the candidate is a partner of the query.
        allowed: bool (nq, ng), the gallery of every query, such as its own cohort; all by default.

    Raises:
        InputError: the shapes differ, or a similarity is NaN.
    """
    scores = np.asarray(similarity)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    partner = np.asarray(positives, dtype=bool)
    inside = np.ones_like(partner) if allowed is None else np.asarray(allowed, dtype=bool)
    if scores.ndim != 2 or not scores.shape == partner.shape == inside.shape:
        found = f"{scores.shape}, {partner.shape}, {inside.shape}"
        raise InputError("similarity, positives and allowed must be matrices alike", found=found)
    if np.isnan(scores).any():
        raise InputError("similarities hold NaN", found=f"{int(np.isnan(scores).sum())} cells")
    partner = partner & inside
    query = np.flatnonzero(partner.any(axis=1))
    scores, partner, inside = scores[query], partner[query], inside[query]
    best = np.max(scores, axis=1, keepdims=True, initial=-np.inf, where=partner)
    level = scores == best
    other = inside & ~partner
    return Ranks(
        query=query.astype(np.int64),
        above=np.count_nonzero(other & (scores > best), axis=1).astype(np.int64),
        tied=np.count_nonzero(other & level, axis=1).astype(np.int64),
        tied_positives=np.count_nonzero(partner & level, axis=1).astype(np.int64),
        positives=np.count_nonzero(partner, axis=1).astype(np.int64),
        gallery=np.count_nonzero(inside, axis=1).astype(np.int64),
    )


def retrieval(
    similarity: npt.ArrayLike, positives: npt.ArrayLike, *, allowed: npt.ArrayLike | None = None
) -> Retrieval:
    """Recall, rank and fold over random of `similarity`; arguments and errors as in `ranks`.

    Example:
        >>> retrieval([[0.9, 0.1], [0.8, 0.3]], [[True, False], [False, True]]).median_rank
        1.5
    """
    return retrieval_from_ranks(ranks(similarity, positives, allowed=allowed))


def retrieval_from_ranks(found: Ranks) -> Retrieval:
    """The summary of what `ranks` returned.

    Raises:
        InputError: no query has a positive in its gallery.
    """
    if len(found.query) == 0:
        raise InputError("no query has a partner in the gallery", hint="check the patient ids")
    values = _summary(_per_query(found))
    return Retrieval(
        len(found.query),
        round(float(found.gallery.mean())),
        **{name: float(value) for name, value in zip(_SUMMARY, values, strict=True)},
    )


_SUMMARY = ("recall1", "recall5", "recall10", "median_rank", "mrr", "chance10", "fold10")


def _per_query(found: Ranks) -> Float:
    hits = [found.hits(k) for k in (1, 5, 10)]
    return np.stack([*hits, found.rank, found.reciprocal, found.chance(10)], axis=1)


def _summary(table: Float) -> Float:
    mean = table.mean(axis=0)
    median = np.median(table[:, 3])
    return np.array([*mean[:3], median, mean[4], mean[5], mean[2] / mean[5]])


def _hit(negatives: Ints, positives: Ints, draws: Ints) -> Float:
    """P(a positive in d `draws` without replacement) = 1 - C(neg, d) / C(neg + pos, d)."""
    miss = np.ones(len(negatives))
    for i in range(max(0, int(np.max(draws, initial=0)))):
        factor = np.maximum(negatives - i, 0) / np.maximum(negatives + positives - i, 1)
        miss *= np.where(i < draws, factor, 1.0)
    return np.asarray(1.0 - miss)


# Correlation


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> Float:
    """Pearson's r of every column: (n, s) and (n, s) -> (s,), or (n,) -> (). NaN when constant.

    Raises:
        InputError: the shapes differ.
    """
    a, b = _alike(x, y)
    a, b = _centred(a), _centred(b)
    norm = np.sqrt((a * a).sum(axis=0)) * np.sqrt((b * b).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip((a * b).sum(axis=0) / norm, -1.0, 1.0))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> Float:
    """Spearman's rho of every column: Pearson's r of the mid-ranks; shapes and NaN as `pearson`."""
    a, b = _alike(x, y)
    missing = np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0)
    return np.asarray(np.where(missing, np.nan, pearson(_midranks(a), _midranks(b))))


def r2(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Float:
    """R² = 1 - sum (measured - predicted)² / sum (measured - mean)² of every column.

    Below 0 where the mean of the measured values predicts better; NaN where they are constant.
    Shapes and errors as `pearson`; the order of the arguments matters.
    """
    p, m = _alike(predicted, measured)
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = ((m - p) ** 2).sum(axis=0)
        return np.asarray(1.0 - residual / _nan_if_zero((_centred(m) ** 2).sum(axis=0)))


def within_cohort_r(
    predicted: npt.ArrayLike, measured: npt.ArrayLike, cohorts: Labels, *, min_n: int = 20
) -> tuple[Float, dict[str, Float]]:
    """Pearson's r inside cohorts: the unweighted mean (s,), and every cohort's own (s,).

    Correlation over a pooled archive mostly says which tissue a slide is; this does not. Cohorts
    with fewer than `min_n` pairs and rows without a cohort are left out; a cohort in which a column
    is constant is NaN there and does not enter that column's mean.
    """
    p, m = _alike(predicted, measured)
    labels = _labels(cohorts, len(p))
    by_cohort: dict[str, Float] = {}
    for cohort in sorted({c for c in labels if c is not None}):
        rows = labels == cohort
        if rows.sum() >= min_n:
            by_cohort[str(cohort)] = pearson(p[rows], m[rows])
    if not by_cohort:
        return np.full(p.shape[1:], np.nan), by_cohort
    each = np.stack(list(by_cohort.values()))
    known = ~np.isnan(each)
    total = np.where(known, each, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), by_cohort


def auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that a true row outscores a false one.

    Ties count half (Mann-Whitney U, doi:10.1148/radiology.143.1.7063747). NaN when `labels`,
    bool (n,), are all true or all false.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels, dtype=bool)
    if values.ndim != 1 or values.shape != truth.shape:
        raise InputError("scores and labels differ", found=f"{values.shape}, {truth.shape}")
    _no_nan(values, "scores")
    n_true = int(truth.sum())
    n_false = len(truth) - n_true
    if n_true == 0 or n_false == 0:
        return float("nan")
    u = _midranks(values)[truth].sum() - n_true * (n_true + 1) / 2
    return float(u / (n_true * n_false))


def optional(value: npt.ArrayLike) -> float | None:
    """A single number as a float, or None when it is NaN or infinite."""
    number = float(np.asarray(value, dtype=np.float64))
    return number if np.isfinite(number) else None


# Calibration


def percentile_rank(values: npt.ArrayLike) -> Float:
    """Mid-rank percentile of every value among its column, in (0, 100): 100 (below + ties / 2) / n.

    (n,) or (n, s); a value counts as its own tie, so that the median of many stands at 50. NaN
    stays NaN and is not counted.
    """
    numbers = np.asarray(values, dtype=np.float64)
    counted = (~np.isnan(numbers)).sum(axis=0)
    return np.asarray(100.0 * (_midranks(numbers) - 0.5) / np.maximum(counted, 1))


def empirical_p(observed: npt.ArrayLike, null: npt.ArrayLike) -> Float:
    """One-sided p of `observed` (n,) under `null` (n, b): (1 + #{null >= observed}) / (b + 1).

    Never 0 (doi:10.2202/1544-6115.1585); its smallest value is 1 / (b + 1).

    Raises:
        InputError: the row counts differ, or a value is NaN.
    """
    scores = np.asarray(observed)
    draws = np.asarray(null)
    if scores.ndim != 1 or draws.ndim != 2 or len(scores) != len(draws):
        raise InputError("a null needs one row per score", found=f"{scores.shape}, {draws.shape}")
    _no_nan(scores, "observed scores")
    _no_nan(draws, "null scores")
    exceed = np.count_nonzero(draws >= scores[:, None], axis=1)
    return np.asarray((1.0 + exceed) / (draws.shape[1] + 1.0))


def benjamini_hochberg(p: npt.ArrayLike) -> Float:
    """q values (n,) of p values (n,): q_(i) = min over j >= i of p_(j) n / j, at most 1.

    Controls the false discovery rate (doi:10.1111/j.2517-6161.1995.tb02031.x).

    Raises:
        InputError: a p value is NaN or outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("p values must be one list of numbers from 0 to 1")
    n = len(values)
    order = np.argsort(values, kind="stable")
    steps = values[order] * n / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return q


# Helpers


def _alike(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Float, Float]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise InputError("two arrays of pairs must have one shape", found=f"{a.shape}, {b.shape}")
    return a, b


def _labels(values: Labels, n: int) -> npt.NDArray[np.object_]:
    labels = np.array(list(values), dtype=object)
    if len(labels) != n:
        raise InputError("rows and labels differ in number", found=f"{n} and {len(labels)}")
    return labels


def _no_nan(values: npt.NDArray[Any], noun: str) -> None:
    if np.isnan(values).any():
        raise InputError(
            f"{noun} hold NaN", found=f"{int(np.isnan(values).sum())} of {values.size}"
        )


def _nan_if_zero(values: Float) -> Float:
    return np.asarray(np.where(values == 0, np.nan, values))


def _centred(columns: Float) -> Float:
    """Columns less their mean; exactly zero where a column is constant but for rounding."""
    if len(columns) == 0:
        return columns
    with np.errstate(invalid="ignore"):
        mean = columns.mean(axis=0)
        centred = columns - mean
        spread = np.sqrt((centred**2).mean(axis=0))
        return np.asarray(np.where(spread <= CONSTANT * np.abs(mean), 0.0, centred))


def _midranks(values: Float) -> Float:
    """1-based ranks of each column, ties sharing their mean rank; NaN stays NaN."""
    if values.ndim == 2:
        columns = [_midranks(column) for column in values.T]
        return np.stack(columns, axis=1) if columns else np.empty(values.shape)
    result = np.full(len(values), np.nan)
    known = ~np.isnan(values)
    ordered = np.sort(values[known])
    below = np.searchsorted(ordered, values[known], side="left")
    upto = np.searchsorted(ordered, values[known], side="right")
    result[known] = (below + upto + 1) / 2.0
    return result
