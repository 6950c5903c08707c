"""Scores of profiles, against gseapy, scipy, naive loops, and numbers worked out by hand."""

import math

import gseapy
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from molquery.genesets import scoring
from molquery.genesets.scoring import (
    METHODS,
    gene_z,
    mean_z,
    mean_z_matrix,
    memberships,
    rank_score,
    ranks,
    score_sets,
    ssgsea,
    usable,
    z_scores,
)
from molquery.vectors import Float, Ints

NAN = math.nan


def toy(n: int = 30, n_genes: int = 200, seed: int = 0) -> Float:
    rng = np.random.default_rng(seed)
    return rng.normal(rng.uniform(0, 12, n_genes), rng.uniform(0.5, 3, n_genes), (n, n_genes))


def some_set(m: int, n_genes: int, seed: int = 1) -> tuple[Ints, Float]:
    rng = np.random.default_rng(seed)
    return rng.choice(n_genes, m, replace=False).astype(np.int64), rng.uniform(0.5, 2, m)


def gseapy_es(expression: Float, sets: dict[str, Ints]) -> npt.NDArray[np.float64]:
    """Raw ES of gseapy, (n, S)."""
    frame = pd.DataFrame(expression.T, index=[f"G{j}" for j in range(expression.shape[1])])
    frame.columns = [f"P{i}" for i in range(len(expression))]
    result = gseapy.ssgsea(
        frame,
        {name: [f"G{j}" for j in positions] for name, positions in sets.items()},
        sample_norm_method="rank", correl_norm_type="rank", weight=0.25,
        min_size=1, max_size=10_000, threads=1, no_plot=True, outdir=None,
    )  # fmt: skip
    table = result.res2d.pivot(index="Name", columns="Term", values="ES").astype(float)
    return table.loc[list(frame.columns), list(sets)].to_numpy()


# Mean z ------------------------------------------------------------------------------------------


def test_gene_z_is_that_of_numpy_and_scipy() -> None:
    x = toy(n_genes=4500)
    mean, sd = gene_z(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sd, x.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(z_scores(x), stats.zscore(x, axis=0, ddof=0), atol=1e-9)


def test_gene_z_leaves_out_missing_values() -> None:
    x = np.array([[1.0, NAN, NAN], [3.0, 4.0, NAN], [NAN, 8.0, NAN]])
    mean, sd = gene_z(x)
    np.testing.assert_array_equal(mean, [2.0, 6.0, NAN])
    np.testing.assert_array_equal(sd, [1.0, 2.0, 0.0])


def test_constant_genes_are_not_usable() -> None:
    x = toy()
    x[:, 3] = 0.1  # 30 * 0.1 / 30 is not 0.1 in floating point
    x[:, 5] = NAN
    x[1:, 7] = NAN
    for dtype in (np.float32, np.float64):
        assert np.flatnonzero(~usable(x.astype(dtype))).tolist() == [3, 5, 7]
    z = z_scores(x)
    assert (z[:, [3, 5, 7]] == 0).all()


def test_mean_z_by_hand() -> None:
    # z of the first gene: -1, 1; of the second: 1, -1; the third is constant.
    x = np.array([[0.0, 5.0, 1.0], [2.0, 1.0, 1.0]])
    got = mean_z(x, np.array([0, 1, 2]), np.array([3.0, -1.0, 9.0]))
    np.testing.assert_allclose(got, [-1.0, 1.0])
    np.testing.assert_allclose(mean_z(x, np.array([0, 1]), np.array([3.0, 1.0])), [-0.5, 0.5])
    assert np.isnan(mean_z(x, np.array([2]), np.array([1.0]))).all()


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_mean_z_matches_a_loop(missing: float) -> None:
    x = toy()
    x[np.random.default_rng(5).random(x.shape) < missing] = NAN
    x[:, 11] = 4.0
    positions, weights = some_set(20, 200)
    positions[0], weights[::3] = 11, -weights[::3]
    expected = []
    for profile in x:
        top = bottom = 0.0
        for j, w in zip(positions, weights, strict=True):
            column = x[:, j][~np.isnan(x[:, j])]
            if column.std() > 0 and not np.isnan(profile[j]):
                top += w * (profile[j] - column.mean()) / column.std()
                bottom += abs(w)
        expected.append(top / bottom)
    np.testing.assert_allclose(mean_z(x, positions, weights), expected, atol=1e-12)
    matrix = memberships([(positions, weights)], 200)
    np.testing.assert_allclose(mean_z_matrix(z_scores(x), matrix)[:, 0], expected, atol=1e-12)


def test_mean_z_against_another_reference() -> None:
    x = toy()
    x[:, 0] = 1.0
    positions, weights = np.arange(20), np.ones(20)
    reference = gene_z(x)
    whole = mean_z(x, positions, weights)
    np.testing.assert_allclose(mean_z(x[:3], positions, weights, reference=reference), whole[:3])
    z = z_scores(x[:3], reference)
    matrix = memberships([(positions, weights)], 200)
    got = mean_z_matrix(z, matrix, usable=reference[1] > 0)
    np.testing.assert_allclose(got[:, 0], whole[:3])


def test_mean_z_of_a_profile_without_any_of_the_genes_is_missing() -> None:
    x = toy()
    x[4, :5] = NAN
    got = mean_z(x, np.arange(5), np.ones(5))
    assert np.flatnonzero(np.isnan(got)).tolist() == [4]


def test_mean_z_matrix_scores_many_sets_in_either_precision() -> None:
    x = toy()
    sets = [some_set(m, 200, seed=m) for m in (1, 5, 50)]
    expected = score_sets(x, sets, METHODS[0])
    assert expected.shape == (30, 3)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        z = z_scores(x.astype(dtype))
        assert z.dtype == dtype
        got = mean_z_matrix(z, memberships(sets, 200))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, atol=tolerance)


# Ranks -------------------------------------------------------------------------------------------


def test_ranks_are_those_of_scipy() -> None:
    x = np.round(toy())  # rounded, so that there are ties
    np.testing.assert_array_equal(ranks(x), stats.rankdata(x, axis=1))
    x[0, :50] = NAN
    np.testing.assert_array_equal(ranks(x), stats.rankdata(x, axis=1, nan_policy="omit"))
    x[1] = NAN
    assert np.isnan(ranks(x)[1]).all()
    assert ranks(x).dtype == np.float32


# ssGSEA ------------------------------------------------------------------------------------------


def test_ssgsea_is_that_of_gseapy() -> None:
    x = toy()
    sets = {f"S{m}": some_set(m, 200, seed=m)[0] for m in (1, 2, 15, 60, 199)}
    expected = gseapy_es(x, sets)
    got = score_sets(x, [(p, np.ones(len(p))) for p in sets.values()], METHODS[1])
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(ssgsea(ranks(x), sets["S15"], np.full(15, -2.0)), -expected[:, 2])


def test_ssgsea_of_a_signed_set_is_the_difference() -> None:
    x = toy()
    up, down = np.arange(10), np.arange(50, 75)
    expected = gseapy_es(x, {"UP": up, "DOWN": down})
    weights = np.r_[np.ones(10), -np.ones(25)]
    got = ssgsea(ranks(x), np.r_[up, down], weights)
    np.testing.assert_allclose(got, expected[:, 0] - expected[:, 1], atol=1e-6, rtol=0)


def test_ssgsea_ties_do_not_depend_on_column_order() -> None:
    x = np.maximum(np.round(toy()) - 5, 0)  # a third of the values are zero
    positions = some_set(30, 200)[0]
    got = ssgsea(ranks(x), positions, np.ones(30))
    back = x[:, ::-1]
    np.testing.assert_allclose(ssgsea(ranks(back), 199 - positions, np.ones(30)), got)
    # gseapy's order of tied genes is that of the columns, so two opposite orders have the mean.
    one, other = gseapy_es(x, {"S": positions}), gseapy_es(back, {"S": 199 - positions})
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_allclose(got, (one + other)[:, 0] / 2, atol=1e-6, rtol=0)


def test_ssgsea_by_hand() -> None:
    # Ranks 1, 2, 3, 4; the set holds ranks 4 and 1. Exponent 1: in = (16 + 1) / 5, out = 5 / 2.
    x = np.array([[1.0, 2.0, 3.0, 4.0]])
    got = ssgsea(ranks(x), np.array([3, 0]), np.ones(2), exponent=1.0)
    np.testing.assert_allclose(got, [17 / 5 - 5 / 2])
    # Exponent 0: in = (4 + 1) / 2.
    got = ssgsea(ranks(x), np.array([3, 0]), np.ones(2), exponent=0.0)
    np.testing.assert_allclose(got, [0.0])


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: m.name)
def test_missing_genes_are_as_if_they_were_not_there(method: scoring.Method) -> None:
    x = toy()
    positions, weights = np.arange(40), np.r_[np.ones(20), -np.ones(20)]
    x[2, 10:30] = x[2, 90:100] = NAN
    got = method.function(ranks(x), positions, weights)
    left = np.flatnonzero(~np.isnan(x[2]))
    short = np.flatnonzero(left < 40)
    alone = method.function(ranks(x[2:3, left]), short, weights[left[short]])
    np.testing.assert_allclose(got[2], alone[0])
    x[3, :20] = NAN
    assert np.isnan(method.function(ranks(x), positions, weights)[3])


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda m: m.name)
def test_a_set_of_every_gene_has_no_rank_score(method: scoring.Method) -> None:
    x = toy(n_genes=6)
    assert np.isnan(method.function(ranks(x), np.arange(6), np.ones(6))).all()


# Rank score --------------------------------------------------------------------------------------


def test_rank_score_by_hand() -> None:
    # N = 5, k = 2: mean ranks lie in [1.5, 4.5].
    x = np.array([[10.0, 20.0, 30.0, 40.0, 50.0], [50.0, 40.0, 30.0, 20.0, 10.0]])
    pair = np.array([3, 4])
    np.testing.assert_allclose(rank_score(ranks(x), pair, np.ones(2)), [0.5, -0.5])
    # Ranks 1 and 4: mean 2.5, (2.5 - 1.5) / 3 - 0.5.
    got = rank_score(ranks(x[:1]), np.array([0, 3]), np.ones(2))
    np.testing.assert_allclose(got, [1 / 3 - 0.5])
    # Up genes at the top, down genes at the bottom.
    got = rank_score(ranks(x), np.array([3, 4, 0, 1]), np.array([1.0, 2.0, -1.0, -0.1]))
    np.testing.assert_allclose(got, [1.0, -1.0])
    got = rank_score(ranks(x), np.array([0, 1]), -np.ones(2))
    np.testing.assert_allclose(got, [0.5, -0.5])
    # Tied genes share ranks 1 and 2: mean 1.5 with k = 1, (1.5 - 1) / 4 - 0.5.
    tied = np.array([[7.0, 7.0, 8.0, 9.0, 10.0]])
    np.testing.assert_allclose(rank_score(ranks(tied), np.array([0]), np.ones(1)), [0.5 / 4 - 0.5])


# All methods -------------------------------------------------------------------------------------


def test_methods_are_named_once_and_cited() -> None:
    assert [m.name for m in METHODS] == ["mean_z", "ssgsea", "rank"]
    assert all("doi:10." in m.citation for m in METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_planted_signal_is_found(method: scoring.Method) -> None:
    rng = np.random.default_rng(7)
    x = toy(n=80, n_genes=500, seed=7)
    activity = rng.normal(size=80)
    up, down = np.arange(25), np.arange(25, 40)
    x[:, up] += activity[:, None] * x[:, up].std(axis=0)
    x[:, down] -= activity[:, None] * x[:, down].std(axis=0)
    positions, weights = np.r_[up, down], np.r_[np.ones(25), -np.ones(15)]
    planted = (positions, weights)
    others = [
        (p + 40, np.where(np.arange(40) < 25, 1.0, -1.0))
        for p, _ in (some_set(40, 460, seed=s) for s in range(20))
    ]
    scores = score_sets(x, [planted, *others], method)
    assert scores.shape == (80, 21)
    correlation = [stats.pearsonr(column, activity).statistic for column in scores.T]
    assert correlation[0] > 0.9
    assert np.abs(correlation[1:]).max() < 0.5
    np.testing.assert_allclose(score_sets(x, [(positions, -weights)], method)[:, 0], -scores[:, 0])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_single_precision_expression_gives_the_same_scores(method: scoring.Method) -> None:
    x = np.round(toy(), 3).astype(np.float32)
    planted = some_set(20, 200)
    got = score_sets(x, [planted], method)
    np.testing.assert_allclose(got, score_sets(x.astype(np.float64), [planted], method), atol=1e-9)
    assert got.dtype == np.float64


def test_no_sets_give_no_columns() -> None:
    assert score_sets(toy(), [], METHODS[0]).shape == (30, 0)
