"""Scores of expression profiles: pure functions on arrays.

A set is given by `positions`, (m,) int64 distinct gene columns, and `weights`, (m,) float64, not
zero, up genes positive and down genes negative: the fields of `match.Match`. Expression is (n, G)
float, profiles in rows, NaN where a value is missing; a score is (n,) float64, NaN for a profile
that has none of the set's genes. Methods that rank take `ranks(expression)` in its place, made
once for all sets. Missing genes and gene names are dealt with in `match`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from molquery.vectors import Bools, Float, Ints

Expression: TypeAlias = npt.NDArray[np.floating[Any]]
GeneSet: TypeAlias = tuple[Ints, Float]

# Genes are standardised so many at a time: 2,000 profiles then need 33 MB of scratch space.
_BLOCK = 2048
# The exponent of Barbie et al. 2009, and gseapy's default.
_EXPONENT = 0.25


def gene_z(expression: Expression) -> tuple[Float, Float]:
    """Mean and standard deviation of every gene over the reference profiles, each (G,) float64.

    The standard deviation divides by n (ddof = 0). Missing values are left out. A gene that is
    constant, or that has no value at all, has a standard deviation of exactly 0.
    """
    mean = np.full(expression.shape[1], np.nan)
    sd = np.zeros(expression.shape[1])
    for start in range(0, expression.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        x = expression[:, block].astype(np.float64)
        seen = ~np.isnan(x)
        count = seen.sum(axis=0)
        some = count > 0
        np.divide(np.where(seen, x, 0.0).sum(axis=0), count, out=mean[block], where=some)
        squares = (np.where(seen, x - mean[block], 0.0) ** 2).sum(axis=0)
        np.divide(squares, count, out=sd[block], where=some)
        # The mean of equal numbers may differ from them by rounding, so test equality itself.
        if len(x):
            sd[block][np.fmax.reduce(x, axis=0) == np.fmin.reduce(x, axis=0)] = 0.0
    return mean, np.sqrt(sd)


def usable(expression: Expression) -> Bools:
    """Mask (G,) of the genes that vary over the reference; the others cannot inform any score.

    Matching against `{gene: j for j, gene in enumerate(panel) if mask[j]}` reports them as missing.
    """
    return gene_z(expression)[1] > 0


def z_scores(
    expression: Expression, reference: tuple[Float, Float] | None = None
) -> npt.NDArray[np.floating[Any]]:
    """z-scores of every gene, (n, G) in the dtype of `expression`: (x - mean) / sd.

    A gene with sd = 0 has z = 0; a missing value stays NaN.

    Args:
        expression: (n, G) profiles.
        reference: mean and sd of `gene_z`; those of `expression` itself when left out.
    """
    mean, sd = gene_z(expression) if reference is None else reference
    varies = sd > 0
    z: npt.NDArray[np.floating[Any]] = np.zeros(expression.shape, dtype=expression.dtype)
    for start in range(0, expression.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        centred = expression[:, block].astype(np.float64) - mean[block]
        np.divide(centred, sd[block], out=centred, where=varies[block])
        z[:, block] = np.where(varies[block], centred, 0.0)
    return z


def mean_z(
    expression: Expression,
    positions: Ints,
    weights: Float,
    *,
    reference: tuple[Float, Float] | None = None,
) -> Float:
    """Weighted mean z-score of every profile, (n,) float64, in standard deviations of a gene.

        score_j = sum_g w_g z_jg / sum_g |w_g|,    z_jg = (x_jg - mean_g) / sd_g

    over the genes g that vary in the reference and are not missing in profile j. It is the
    combined z-score of Lee et al. 2008 (doi:10.1371/journal.pcbi.1000217) with weights, divided by
    the number of genes m rather than its square root, so that sets of all sizes share a unit.

    Args:
        expression: (n, G) profiles.
        positions: (m,) gene columns.
        weights: (m,) signed weights.
        reference: mean and sd (G,) of `gene_z`, when the reference is not `expression` itself.
    """
    chosen = expression[:, positions].astype(np.float64)
    mean, sd = gene_z(chosen) if reference is None else (r[positions] for r in reference)
    varies = sd > 0
    z = (chosen[:, varies] - mean[varies]) / sd[varies]
    return _weighted_mean(z, weights[varies][:, None])[:, 0]


def mean_z_matrix(
    z: npt.NDArray[np.floating[Any]],
    memberships: npt.NDArray[np.floating[Any]],
    *,
    usable: Bools | None = None,
) -> Float:
    """`mean_z` of many sets at once, (n, S) float64: Z M / sum |M|, one matrix product.

    Args:
        z: (n, G) z-scores of `z_scores`; the product is computed in this dtype.
        memberships: (G, S) signed weights, zero for genes outside a set (see `memberships`).
        usable: (G,) genes that vary in the reference. When left out: those with z other than 0 in
            some profile. Pass it when `z` holds few profiles scored against another reference.
    """
    keep = (z != 0).any(axis=0) if usable is None else usable
    weights = np.where(keep[:, None], memberships, 0.0).astype(z.dtype)
    return _weighted_mean(z, weights)


def memberships(sets: Sequence[GeneSet], n_genes: int) -> Float:
    """(G, S) float64 matrix of weights, one column a set, for `mean_z_matrix`."""
    matrix = np.zeros((n_genes, len(sets)))
    for column, (positions, weights) in enumerate(sets):
        matrix[positions, column] = weights
    return matrix


def ranks(expression: Expression) -> npt.NDArray[np.float32]:
    """Ascending ranks of the genes within every profile, (n, G) float32, 1 = lowest.

    Equal values share the mean of their ranks. A missing value has rank NaN and does not count.
    float32 holds every rank and half-rank exactly up to 8 million genes.
    """
    out = np.full(expression.shape, np.nan, dtype=np.float32)
    for profile, into in zip(expression, out, strict=True):
        seen = np.flatnonzero(~np.isnan(profile))
        order = seen[np.argsort(profile[seen])]
        ordered = profile[order]
        starts = np.flatnonzero(np.r_[len(ordered) > 0, ordered[1:] != ordered[:-1]])
        lengths = np.diff(np.r_[starts, len(ordered)])
        into[order] = np.repeat(starts + (lengths + 1) / 2, lengths)
    return out


def ssgsea(
    ranks: npt.NDArray[np.float32],
    positions: Ints,
    weights: Float,
    *,
    exponent: float = _EXPONENT,
) -> Float:
    """Single-sample GSEA enrichment score of every profile, (n,) float64, in gene ranks.

    Barbie et al. 2009, doi:10.1038/nature08460. Going down the N genes of a profile from the
    highest, with r_g the ascending rank of gene g and S the set of k genes,

        ES = sum_{i=1..N} [ P_in(i) - P_out(i) ]
           = sum_S r_g^(1 + a) / sum_S r_g^a - (N (N + 1) / 2 - sum_S r_g) / (N - k)

    where P_in adds r_g^a / sum_S r^a for every gene in S, P_out adds 1 / (N - k) for every other
    gene, and a is `exponent`. It is the ES of `gseapy.ssgsea(sample_norm_method="rank",
    correl_norm_type="rank", weight=0.25)`; gseapy's NES, which divides ES by its range over the
    sets and samples of that one run, is not used, since it depends on what else is scored.
    gseapy breaks ties by column order; here tied genes share their mean rank, which is the mean of
    gseapy's ES over all orders of the tied genes.

    A signed set scores ES(up genes) - ES(down genes). The size of a weight does not matter. NaN
    where a profile has no gene of one direction of the set, or no gene outside it.

    Args:
        ranks: (n, G) from `ranks`.
        positions: (m,) gene columns.
        weights: (m,) signed weights; only their signs count.
        exponent: a; 0 makes P_in a plain cumulative share.
    """
    total = _count(ranks)

    def enrichment(columns: Ints) -> Float:
        r, size, seen = _of_set(ranks, columns)
        powered = np.where(seen, r, 1.0) ** exponent * seen
        step_in = _ratio((powered * r).sum(axis=1), powered.sum(axis=1))
        return step_in - _ratio(total * (total + 1) / 2 - r.sum(axis=1), total - size)

    return _signed(enrichment, positions, weights, len(ranks))


def rank_score(ranks: npt.NDArray[np.float32], positions: Ints, weights: Float) -> Float:
    """Mean normalised rank of the set's genes in every profile, centred, (n,) float64.

    singscore, Foroutan et al. 2018, doi:10.1186/s12859-018-2435-4. With r_g the ascending rank of
    gene g among the N genes of the profile and S the k genes of one direction,

        s = (mean_S r_g - r_min) / (r_max - r_min) - 1/2,   r_min = (k + 1) / 2,
                                                            r_max = (2 N - k + 1) / 2

    which is 1/2 when the set's genes are the highest of the profile, and -1/2 when the lowest. A
    signed set scores s(up genes) - s(down genes), in [-1, 1]. Equal values share their mean rank
    (the R package gives them the lowest). The size of a weight does not matter. NaN where a
    profile has no gene of one direction of the set, or no gene outside it.

    Args:
        ranks: (n, G) from `ranks`.
        positions: (m,) gene columns.
        weights: (m,) signed weights; only their signs count.
    """
    total = _count(ranks)

    def normalised(columns: Ints) -> Float:
        r, size, _ = _of_set(ranks, columns)
        return _ratio(_ratio(r.sum(axis=1), size) - (size + 1) / 2, total - size) - 0.5

    return _signed(normalised, positions, weights, len(ranks))


@dataclass(frozen=True, slots=True)
class Method:
    """A way to score profiles.

    Attributes:
        name: what the user types after --method.
        function: (values, positions, weights) -> (n,) float64.
        needs_rank: the values are `ranks(expression)`, not `expression`.
        citation: authors, year and DOI.
    """

    name: str
    function: Callable[[Any, Ints, Float], Float]
    needs_rank: bool
    citation: str


METHODS = [
    Method("mean_z", mean_z, False, "after Lee et al. 2008, doi:10.1371/journal.pcbi.1000217"),
    Method("ssgsea", ssgsea, True, "Barbie et al. 2009, doi:10.1038/nature08460"),
    Method("rank", rank_score, True, "Foroutan et al. 2018, doi:10.1186/s12859-018-2435-4"),
]


def score_sets(expression: Expression, sets: Sequence[GeneSet], method: Method) -> Float:
    """Scores of every profile for every set by one method, (n, S) float64."""
    values = ranks(expression) if method.needs_rank else expression
    scores = [method.function(values, positions, weights) for positions, weights in sets]
    return np.stack(scores, axis=1) if scores else np.empty((len(expression), 0))


def _weighted_mean(
    z: npt.NDArray[np.floating[Any]], weights: npt.NDArray[np.floating[Any]]
) -> Float:
    """(n, S): sum_g w_gs z_jg / sum_g |w_gs| over the genes that are not NaN in profile j."""
    missing = np.isnan(z)
    if missing.any():
        sums = np.where(missing, z.dtype.type(0), z) @ weights
        sizes = (~missing).astype(z.dtype) @ np.abs(weights)
    else:
        sums, sizes = z @ weights, np.abs(weights).sum(axis=0)
    return _ratio(sums.astype(np.float64), sizes)


def _signed(score: Callable[[Ints], Float], positions: Ints, weights: Float, n: int) -> Float:
    """score(up genes) - score(down genes); a direction without genes counts as 0."""
    total = np.zeros(n)
    if (weights > 0).any() or not len(weights):
        total += score(positions[weights > 0])
    if (weights < 0).any():
        total -= score(positions[weights < 0])
    return total


def _of_set(ranks: npt.NDArray[np.float32], columns: Ints) -> tuple[Float, Float, Bools]:
    """Ranks of a set's genes with 0 for missing ones (n, k), how many there are (n,), the mask."""
    r = ranks[:, columns].astype(np.float64)
    seen = ~np.isnan(r)
    return np.where(seen, r, 0.0), seen.sum(axis=1).astype(np.float64), seen


def _count(ranks: npt.NDArray[np.float32]) -> Float:
    """How many genes each profile has, (n,)."""
    total = np.full(len(ranks), float(ranks.shape[1]))
    # A sum is NaN where any value is; summing is far cheaper than a mask of the whole matrix.
    partial = np.isnan(ranks.sum(axis=1))
    total[partial] = (~np.isnan(ranks[partial])).sum(axis=1)
    return total


def _ratio(numerator: Float, denominator: npt.NDArray[np.floating[Any]]) -> Float:
    """Quotient in float64, NaN where the denominator is 0."""
    out: Float = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out
